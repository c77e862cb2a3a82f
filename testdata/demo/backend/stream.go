package main

import (
	"log"
	"net/http"
	"sync"
	"time"

	"github.com/gorilla/websocket"
)

// stream pushes orders to everybody who watches.
type stream struct {
	upgrader websocket.Upgrader

	mu       sync.Mutex
	watchers map[*websocket.Conn]bool
}

// serve keeps the connection until the watcher goes.
func (s *stream) serve(w http.ResponseWriter, r *http.Request) {
	c, err := s.upgrader.Upgrade(w, r, nil)
	if err != nil {
		log.Print(err)
		return
	}
	s.mu.Lock()
	s.watchers[c] = true
	s.mu.Unlock()
	for {
		if _, _, err := c.ReadMessage(); err != nil {
			break
		}
	}
	s.mu.Lock()
	delete(s.watchers, c)
	s.mu.Unlock()
	c.Close()
}

func (s *stream) push(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.watchers {
		c.SetWriteDeadline(time.Now().Add(time.Second))
		if err := c.WriteMessage(websocket.TextMessage, []byte(text)); err != nil {
			c.Close() // its reader ends
		}
	}
}
