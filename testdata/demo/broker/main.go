// Command broker is the demo's stock broker: an HTTPS API with a certificate of
// its own. Now and then it is slow, and now and then it answers 503.
package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"flag"
	"fmt"
	"log"
	"math/big"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync/atomic"
	"time"
)

func main() {
	addr := flag.String("addr", "127.0.0.1:0", "address to serve on")
	ca := flag.String("ca", "", "file to write the certificate to, for clients to trust")
	flag.Parse()

	cert, err := selfSigned(*ca)
	if err != nil {
		log.Fatal(err)
	}
	l, err := net.Listen("tcp", *addr)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("ready https://%s\n", l.Addr())
	s := &http.Server{
		Handler:           handler(),
		TLSConfig:         &tls.Config{Certificates: []tls.Certificate{cert}},
		ReadHeaderTimeout: 5 * time.Second,
	}
	log.Fatal(s.ServeTLS(l, "", ""))
}

func handler() http.Handler {
	mux := http.NewServeMux()
	var n, status, delay atomic.Int64 // the last two: a fault that was asked for
	mux.HandleFunc("POST /fault", func(_ http.ResponseWriter, r *http.Request) {
		code, _ := strconv.ParseInt(r.FormValue("status"), 10, 64) // 0 is no fault
		wait, _ := time.ParseDuration(r.FormValue("delay"))
		status.Store(code)
		delay.Store(int64(wait))
	})
	mux.HandleFunc("POST /v1/orders", func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(time.Duration(delay.Load()))
		switch i := n.Add(1); {
		case status.Load() != 0:
			http.Error(w, `{"error":"out of order"}`, int(status.Load()))
			return
		case i%7 == 0:
			http.Error(w, `{"error":"exchange closed"}`, http.StatusServiceUnavailable)
			return
		case i%5 == 0:
			time.Sleep(120 * time.Millisecond)
		default:
			time.Sleep(8 * time.Millisecond)
		}
		w.WriteHeader(http.StatusCreated)
		fmt.Fprintf(w, `{"id":"T-%d"}`, n.Load())
	})
	mux.HandleFunc("GET /v1/quotes/{symbol}", func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(3 * time.Millisecond)
		fmt.Fprintf(w, `{"symbol":%q,"price":101.25}`, r.PathValue("symbol"))
	})
	return mux
}

// selfSigned makes a certificate for 127.0.0.1 and writes it to path.
func selfSigned(path string) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	tmpl := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "demo broker"},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(24 * time.Hour),
		IPAddresses:           []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA:                  true,
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		return tls.Certificate{}, err
	}
	if path != "" {
		p := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
		if err := os.WriteFile(path, p, 0o644); err != nil {
			return tls.Certificate{}, err
		}
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}
