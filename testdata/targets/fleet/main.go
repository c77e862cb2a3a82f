// Command fleet is one of many: a small server with as many routes as it is told.
package main

import (
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
)

func main() {
	first := flag.Int("first", 0, "number of the first route")
	routes := flag.Int("routes", 10, "how many there are: /r0/{id}, /r1/{id}, ...")
	flag.Parse()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	mux := http.NewServeMux()
	for i := range *routes {
		mux.HandleFunc(fmt.Sprintf("/r%d/{id}", *first+i), func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, r.PathValue("id"))
		})
	}
	fmt.Printf("ready {\"pid\":%d,\"http\":%q}\n", os.Getpid(), l.Addr())
	log.Fatal(http.Serve(l, mux))
}
