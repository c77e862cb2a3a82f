package mongo

// maxPending bounds the commands of a connection that wait for their replies.
const maxPending = 1024

// Keep is how much of a message's beginning a Conn keeps, bytes.
const Keep = 2048

// Exchange is a command and, unless none was wanted, its reply.
type Exchange struct {
	Request
	Reply Reply
	// Start and End are the caller's clock when the command's first bytes and the
	// reply's last were seen.
	Start, End uint64
}

// Conn takes both directions of a connection, in whatever pieces they were read, and
// finds the reply of each command, in whatever order they come.
type Conn struct {
	p       *Parser
	emit    func(*Exchange)
	out, in assembler
	pending map[int32]*Exchange
	// Lost counts commands that were given up because too many waited.
	Lost int
}

// NewConn returns a Conn that calls emit for every command that is answered, or wants no
// answer.
func NewConn(p *Parser, emit func(*Exchange)) *Conn {
	return &Conn{p: p, emit: emit, pending: map[int32]*Exchange{}}
}

// Client takes bytes that the client sent.
func (c *Conn) Client(b []byte, now uint64) error {
	return c.out.feed(b, now, func(head []byte, start uint64) error {
		r, err := c.p.Request(head, nil)
		if err != nil {
			return err
		}
		x := &Exchange{Request: r, Start: start}
		if r.NoReply {
			x.End = now
			c.emit(x)
			return nil
		}
		if len(c.pending) >= maxPending {
			c.Lost += len(c.pending)
			clear(c.pending)
		}
		c.pending[r.RequestID] = x
		return nil
	})
}

// Server takes bytes that the server sent.
func (c *Conn) Server(b []byte, now uint64) error {
	return c.in.feed(b, now, func(head []byte, _ uint64) error {
		h, err := ParseHeader(head)
		if err != nil {
			return err
		}
		x := c.pending[h.ResponseTo]
		if x == nil {
			return nil // to a command from before we looked, or one more of a stream
		}
		delete(c.pending, h.ResponseTo)
		r, err := c.p.ReplyTo(head, x.Command)
		if err != nil {
			return err
		}
		x.Reply, x.End = r, now
		c.emit(x)
		return nil
	})
}

// assembler cuts a direction into messages and keeps the beginning of each.
type assembler struct {
	head  []byte
	total int // of the message in work, 0 while its header is not complete
	seen  int
	start uint64
	err   error
}

// feed calls done with the beginning of every message that b completes, and returns the
// first error, also one of done's: what follows is still cut right. After a header that
// is none where the next message begins is not known, and all further bytes are refused.
func (a *assembler) feed(b []byte, now uint64, done func(head []byte, start uint64) error) error {
	var bad error
	for len(b) > 0 && a.err == nil {
		if a.seen == 0 {
			a.start = now
		}
		if a.total == 0 {
			n := min(headerLen-a.seen, len(b))
			a.head, a.seen, b = append(a.head, b[:n]...), a.seen+n, b[n:]
			if a.seen < headerLen {
				return bad
			}
			var h Header
			if h, a.err = ParseHeader(a.head); a.err != nil {
				break
			}
			a.total = h.Len
		}
		n := min(a.total-a.seen, len(b))
		if keep := min(Keep-len(a.head), n); keep > 0 {
			a.head = append(a.head, b[:keep]...)
		}
		a.seen, b = a.seen+n, b[n:]
		if a.seen == a.total {
			err := done(a.head, a.start)
			a.head, a.total, a.seen = a.head[:0], 0, 0
			if bad == nil {
				bad = err
			}
		}
	}
	if bad != nil {
		return bad
	}
	return a.err
}
