// Command early serves, and asks itself once, so long after its start: whoever watches has
// no longer than that to find it.
package main

import (
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"time"
)

func main() {
	addr := flag.String("addr", "127.0.0.1:0", "address to serve on")
	after := flag.Duration("after", time.Second, "when to ask")
	flag.Parse()

	l, err := net.Listen("tcp", *addr)
	if err != nil {
		log.Fatal(err)
	}
	time.AfterFunc(*after, func() {
		resp, err := http.Get("http://" + l.Addr().String() + "/first")
		if err != nil {
			log.Fatal(err)
		}
		resp.Body.Close()
	})
	fmt.Printf("ready {\"pid\":%d,\"http\":%q}\n", os.Getpid(), l.Addr())
	log.Fatal(http.Serve(l, http.NotFoundHandler()))
}
