// Command bot posts trade signals to the backend and looks at the orders that
// come of them. Every eighth signal is one that the backend cannot parse.
package main

import (
	"flag"
	"fmt"
	"io"
	"log"
	"net/http"
	"strings"
	"time"
)

func main() {
	backend := flag.String("backend", "", "URL of the backend")
	n := flag.Int("n", 8, "how many signals to post")
	pause := flag.Duration("pause", 50*time.Millisecond, "between two signals")
	delay := flag.Duration("delay", 0, "before the first one")
	flag.Parse()
	time.Sleep(*delay)

	c := &http.Client{Timeout: 5 * time.Second}
	var accepted, refused int
	for i := 1; i <= *n; i++ {
		text := fmt.Sprintf("BUY %d ACME", i)
		if i%8 == 4 {
			text = "BUY lots of ACME"
		}
		id, err := send(c, http.MethodPost, *backend+"/signals", text)
		if err != nil {
			refused++
		} else {
			accepted++
			if _, err := send(c, http.MethodGet, *backend+"/orders/"+id, ""); err != nil {
				log.Print(err)
			}
		}
		time.Sleep(*pause)
	}
	fmt.Printf("bot: %d signals accepted, %d refused\n", accepted, refused)
}

// send returns the answer's body; an answer of 400 or more is an error.
func send(c *http.Client, method, url, body string) (string, error) {
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		return "", err
	}
	resp, err := c.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<16))
	if err != nil {
		return "", err
	}
	if resp.StatusCode >= 400 {
		return "", fmt.Errorf("%s %s: %s: %s", method, url, resp.Status, strings.TrimSpace(string(text)))
	}
	return string(text), nil
}
