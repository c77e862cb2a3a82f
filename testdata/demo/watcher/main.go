// Command watcher shows the orders that the backend pushes over WebSocket, until it is
// told to stop or has seen enough.
package main

import (
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/gorilla/websocket"
)

func main() {
	backend := flag.String("backend", "", "URL of the backend")
	n := flag.Int("n", 0, "orders to wait for; 0: no end")
	delay := flag.Duration("delay", 0, "before connecting")
	flag.Parse()
	time.Sleep(*delay)

	c, _, err := websocket.DefaultDialer.Dial("ws"+strings.TrimPrefix(*backend, "http")+"/stream", nil)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("ready")
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGINT, syscall.SIGTERM)
	var seen atomic.Int64
	done := make(chan struct{})
	go func() {
		defer close(done)
		for *n == 0 || seen.Load() < int64(*n) {
			if _, _, err := c.ReadMessage(); err != nil {
				return
			}
			seen.Add(1)
		}
	}()
	select {
	case <-stop:
	case <-done:
	}
	bye := websocket.FormatCloseMessage(websocket.CloseNormalClosure, "")
	if err := c.WriteControl(websocket.CloseMessage, bye, time.Now().Add(time.Second)); err != nil {
		log.Print(err)
	}
	c.Close()
	fmt.Printf("watcher: %d orders seen\n", seen.Load())
}
