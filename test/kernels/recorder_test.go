package kernels

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// arrival is one request as it came over the wire.
type arrival struct {
	// text is every byte that is not our header: of HTTP/1 as they came, of HTTP/2 of
	// the decoded header lists, sorted because net/http's own order is random, and data.
	text []byte
	// ours is our header's value, "" when there is none; named is how many headers are
	// called traceparent in any letter case.
	ours  string
	named int
	// refused: it was not answered, so that it is to be sent again.
	refused bool
	shape   shape
}

// recorder takes connections by hand, so that nothing between the wire and the test
// makes unlike things alike.
type recorder struct {
	addr string
	kind string
	cert tls.Certificate

	mu   sync.Mutex
	open map[net.Conn]bool
	done bool
	got  map[int][]arrival // by the number in the path, one per attempt
	sent map[int]bool      // those that were refused once, to be sent again (HTTP/2)
	errs []error
}

func startRecorder(t *testing.T, kind string) *recorder {
	t.Helper()
	r := &recorder{kind: kind, cert: certificate(t), got: map[int][]arrival{}, sent: map[int]bool{}, open: map[net.Conn]bool{}}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r.addr = l.Addr().String()
	var wg sync.WaitGroup
	wg.Add(1)
	go func() {
		defer wg.Done()
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Add(1)
			go func() {
				defer wg.Done()
				defer c.Close()
				r.mu.Lock()
				r.open[c] = true
				if r.done {
					c.Close()
				}
				r.mu.Unlock()
				err := r.serve(c)
				r.mu.Lock()
				defer r.mu.Unlock()
				delete(r.open, c)
				if err != nil && !errors.Is(err, io.EOF) && !r.done {
					r.errs = append(r.errs, err)
				}
			}()
		}
	}()
	t.Cleanup(func() {
		l.Close()
		r.mu.Lock()
		r.done = true
		for c := range r.open { // a client may keep some
			c.Close()
		}
		r.mu.Unlock()
		wg.Wait()
	})
	return r
}

func (r *recorder) serve(c net.Conn) error {
	switch r.kind {
	case "connect":
		br := bufio.NewReader(c)
		head, err := readHead(br)
		if err != nil {
			return err
		}
		// What asks a proxy for a tunnel is the transport's, no call's.
		if !bytes.HasPrefix(head, []byte("CONNECT server.test:443 ")) || names(head) != 0 {
			return fmt.Errorf("asked for a tunnel: %q", head)
		}
		if _, err := io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n"); err != nil {
			return err
		}
		return r.overTLS(c, "http/1.1", r.http1)
	case "https":
		return r.overTLS(c, "http/1.1", r.http1)
	case "http2":
		return r.overTLS(c, "h2", r.http2)
	case "x-http2":
		return r.http2(c)
	}
	return r.http1(c)
}

// certificate is one whose key signs fast: the test takes no interest in it.
func certificate(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	made := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(24 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, made, made, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func (r *recorder) overTLS(c net.Conn, proto string, f func(net.Conn) error) error {
	tc := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{r.cert}, NextProtos: []string{proto}})
	if err := tc.Handshake(); err != nil {
		return err
	}
	defer tc.Close()
	return f(tc)
}

var (
	ourLine  = regexp.MustCompile(`\r\nTraceparent: (00-[0-9a-f]{32}-[0-9a-f]{16}-0[0-9a-f])\r\n`)
	inPath   = regexp.MustCompile(`/n/(\d+)`)
	lengthIs = regexp.MustCompile(`\r\nContent-Length: (\d+)\r\n`)
)

// own begins the trace ids that the program sets itself.
const own = "feedfeedfeedfeed"

func names(head []byte) int { return named(head, "traceparent") }

// named is how many of a header's lines have a name, in any letter case.
func named(head []byte, name string) (n int) {
	for line := range bytes.SplitSeq(head, []byte("\r\n")) {
		if len(line) > len(name) && line[len(name)] == ':' && bytes.EqualFold(line[:len(name)], []byte(name)) {
			n++
		}
	}
	return n
}

// number is a request's, which its path has.
func number(head []byte) (int, error) {
	m := inPath.FindSubmatch(head)
	if m == nil {
		return 0, fmt.Errorf("a request without number: %.200q", head)
	}
	return strconv.Atoi(string(m[1]))
}

// add keeps a request: its header, as text or as sorted lines, and all that follows.
func (r *recorder) add(head, rest []byte, s shape, refused bool) error {
	i, err := number(head)
	if err != nil {
		return err
	}
	a := arrival{named: names(head), refused: refused, shape: s}
	before, after := head, []byte(nil)
	for _, at := range ourLine.FindAllSubmatchIndex(head, -1) {
		value := string(head[at[2]:at[3]])
		if !strings.Contains(value, own) {
			a.ours, before, after = value, head[:at[0]], head[at[1]-2:] // the line's end stays
			break
		}
	}
	a.text = slices.Concat(before, after, rest)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.got[i] = append(r.got[i], a)
	return nil
}

func readHead(br *bufio.Reader) ([]byte, error) {
	var head []byte
	for !bytes.HasSuffix(head, []byte("\r\n\r\n")) {
		line, err := br.ReadSlice('\n')
		head = append(head, line...)
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			if len(head) == 0 {
				return nil, io.EOF // also a reset: the client is done with it
			}
			return nil, fmt.Errorf("in a header %.200q: %w", head, err)
		}
	}
	return head, nil
}

// http1 answers the requests of a connection.
func (r *recorder) http1(c net.Conn) error {
	br := bufio.NewReader(c)
	for served := 0; ; served++ {
		head, err := readHead(br)
		if err != nil {
			return err
		}
		if bytes.Contains(head, []byte("\r\nExpect: 100-continue\r\n")) {
			if _, err := io.WriteString(c, "HTTP/1.1 100 Continue\r\n\r\n"); err != nil {
				return err
			}
		}
		body, err := readBody(br, head)
		if err != nil {
			return fmt.Errorf("in a body: %w", err)
		}
		// Over a new connection it will be sent again.
		refused := served > 0 && bytes.Contains(head, []byte("\r\nX-Hang-Up: 1\r\n"))
		if err := r.add(head, body, shapeOf(head, len(body)), refused); err != nil {
			return err
		}
		if refused {
			return nil
		}
		if _, err := io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"); err != nil {
			return err
		}
	}
}

// readBody returns a body as it is on the wire, with chunks and trailers.
func readBody(br *bufio.Reader, head []byte) ([]byte, error) {
	if m := lengthIs.FindSubmatch(head); m != nil {
		n, err := strconv.Atoi(string(m[1]))
		if err != nil {
			return nil, err
		}
		body := make([]byte, n)
		_, err = io.ReadFull(br, body)
		return body, err
	}
	if !bytes.Contains(head, []byte("\r\nTransfer-Encoding: chunked\r\n")) {
		return nil, nil
	}
	var body []byte
	for {
		line, err := br.ReadBytes('\n')
		if err != nil {
			return nil, err
		}
		body = append(body, line...)
		n, err := strconv.ParseInt(strings.TrimSpace(string(line)), 16, 32)
		if err != nil {
			return nil, err
		}
		if n == 0 {
			break
		}
		chunk := make([]byte, n+2)
		if _, err := io.ReadFull(br, chunk); err != nil {
			return nil, err
		}
		body = append(body, chunk...)
	}
	for { // trailers, and the empty line
		line, err := br.ReadBytes('\n')
		if err != nil {
			return nil, err
		}
		body = append(body, line...)
		if len(line) == 2 {
			return body, nil
		}
	}
}

// stream is an HTTP/2 request in arrival.
type stream struct {
	head, data, trailer []byte
	frame               uint32 // the length of the first one
	continues           bool
}

func (s *stream) shape() shape {
	sh := shapeOf(s.head, len(s.data))
	sh.head, sh.continues = int(s.frame), s.continues
	return sh
}

// refuses says whether a request is to be refused: the first time of those that ask for it.
func (r *recorder) refuses(s *stream) (bool, error) {
	if !bytes.Contains(s.head, []byte("\r\nx-hang-up: 1\r\n")) {
		return false, nil
	}
	i, err := number(s.head)
	if err != nil {
		return false, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	again := r.sent[i]
	r.sent[i] = true
	return !again, nil
}

// http2 answers the requests of a connection.
func (r *recorder) http2(c net.Conn) error {
	preface := make([]byte, len(http2.ClientPreface))
	if _, err := io.ReadFull(c, preface); err != nil {
		return io.EOF
	}
	fr := http2.NewFramer(c, c)
	fr.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	fr.MaxHeaderListSize = 16 << 20
	if err := fr.WriteSettings(); err != nil {
		return err
	}
	streams := map[uint32]*stream{}
	for {
		f, err := fr.ReadFrame()
		if err != nil {
			if errors.As(err, new(http2.StreamError)) || errors.As(err, new(http2.ConnectionError)) {
				return err
			}
			return io.EOF // the client is done
		}
		id, ended := f.Header().StreamID, false
		switch f := f.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() {
				err = fr.WriteSettingsAck()
			}
		case *http2.PingFrame:
			if !f.IsAck() {
				err = fr.WritePing(true, f.Data)
			}
		case *http2.MetaHeadersFrame:
			if f.Truncated {
				return errors.New("a header list is truncated")
			}
			if s := streams[id]; s != nil {
				s.trailer = fields(f)
			} else {
				streams[id] = &stream{head: fields(f), frame: f.Header().Length, continues: !f.HeadersEnded()}
				if bytes.Contains(streams[id].head, []byte("\r\nexpect: 100-continue\r\n")) {
					err = answer(fr, id, "100", false)
				}
			}
			ended = f.StreamEnded()
		case *http2.DataFrame:
			s := streams[id]
			if s == nil {
				return fmt.Errorf("data of unknown stream %d", id)
			}
			s.data = append(s.data, f.Data()...)
			if n := f.Header().Length; n > 0 {
				if err = fr.WriteWindowUpdate(0, n); err == nil && !f.StreamEnded() {
					err = fr.WriteWindowUpdate(id, n)
				}
			}
			ended = f.StreamEnded()
		case *http2.RSTStreamFrame:
			// A client may close an answer's body before it has noted that it sent all
			// of the request, and resets what is over.
			if streams[id] != nil {
				return fmt.Errorf("stream %d is reset: %v", id, f.ErrCode)
			}
		}
		if err != nil {
			return err
		}
		if !ended {
			continue
		}
		s := streams[id]
		delete(streams, id)
		refused, err := r.refuses(s)
		if err != nil {
			return err
		}
		if err := r.add(s.head, append(s.data, s.trailer...), s.shape(), refused); err != nil {
			return err
		}
		if refused {
			if err := fr.WriteRSTStream(id, http2.ErrCodeRefusedStream); err != nil {
				return err
			}
			continue
		}
		if err := answer(fr, id, "200", true); err != nil {
			return err
		}
	}
}

// answer sends a header list of a status alone.
func answer(fr *http2.Framer, id uint32, status string, end bool) error {
	var block bytes.Buffer
	if err := hpack.NewEncoder(&block).WriteField(hpack.HeaderField{Name: ":status", Value: status}); err != nil {
		return err
	}
	return fr.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: end})
}

// fields is a decoded header list as lines: pseudo fields as they came, then the others
// sorted, ours in the letter case that HTTP/1 has.
func fields(f *http2.MetaHeadersFrame) []byte {
	var pseudo, regular []string
	for _, h := range f.Fields {
		line := h.Name + ": " + h.Value + "\r\n"
		switch {
		case h.IsPseudo():
			pseudo = append(pseudo, line)
		case h.Name == "traceparent":
			regular = append(regular, "T"+line[1:])
		default:
			regular = append(regular, line)
		}
	}
	slices.Sort(regular)
	return []byte(strings.Join(pseudo, "") + strings.Join(regular, "") + "\r\n")
}
