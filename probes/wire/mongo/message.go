package mongo

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Opcodes.
const (
	opReply      = 1
	opQuery      = 2004
	opCompressed = 2012
	opMsg        = 2013
)

const (
	headerLen   = 16
	maxMessage  = 48_000_000 // the protocol's limit, bytes
	flagSum     = 1 << 0     // a checksum ends the message
	flagMore    = 1 << 1     // no reply, or a further one, follows
	maxSections = 8
)

// ErrMessage says that bytes are no message of the protocol.
var ErrMessage = errors.New("no MongoDB message")

// ErrCut says of a message that it is compressed, and that from the part that is there
// nothing can be had: zstd begins with what all of a block is needed for.
var ErrCut = fmt.Errorf("%w: only the beginning of what is compressed is there", ErrMessage)

// Header begins every message.
type Header struct {
	Len        int // of the whole message, bytes
	RequestID  int32
	ResponseTo int32
	opcode     int32
}

// Compressed says that what was parsed had been compressed.
func (h Header) Compressed() bool { return h.opcode == opCompressed }

// ParseHeader reads the first 16 bytes of a message.
func ParseHeader(b []byte) (Header, error) {
	if len(b) < headerLen {
		return Header{}, fmt.Errorf("%w: %d bytes", ErrMessage, len(b))
	}
	le := binary.LittleEndian
	h := Header{
		Len: int(int32(le.Uint32(b))), RequestID: int32(le.Uint32(b[4:])),
		ResponseTo: int32(le.Uint32(b[8:])), opcode: int32(le.Uint32(b[12:])),
	}
	if h.Len < headerLen || h.Len > maxMessage {
		return Header{}, fmt.Errorf("%w: length %d", ErrMessage, h.Len)
	}
	switch h.opcode {
	case opReply, opQuery, opCompressed, opMsg:
		return h, nil
	}
	return Header{}, fmt.Errorf("%w: opcode %d", ErrMessage, h.opcode)
}

// section is a sequence of documents beside a message's body.
type section struct {
	id   []byte
	docs []byte // as far as they are there
	cut  bool
}

// content is what a message consists of, once unpacked.
type content struct {
	Header
	more     bool
	cut      bool   // only the message's beginning is there
	ns       []byte // of OP_QUERY: database.collection
	body     []byte // the one document of kind 0, as far as it is there
	sections []section
}

// unpack splits a message, or its beginning. What c holds is valid until the next call.
func (p *Parser) unpack(b []byte, c *content) error {
	h, err := ParseHeader(b)
	if err != nil {
		return err
	}
	*c = content{Header: h, sections: p.sections[:0]}
	if len(b) > h.Len {
		b = b[:h.Len]
	}
	c.cut = len(b) < h.Len
	opcode, rest := h.opcode, b[headerLen:]
	if opcode == opCompressed {
		if opcode, rest, err = p.decompress(rest, c); err != nil {
			return err
		}
	}
	switch opcode {
	case opMsg:
		return p.unpackMsg(rest, c)
	case opQuery:
		return c.unpackQuery(rest)
	case opReply:
		return c.unpackReply(rest)
	}
	return fmt.Errorf("%w: opcode %d", ErrMessage, opcode)
}

func (p *Parser) unpackMsg(b []byte, c *content) error {
	if len(b) < 4 {
		return c.short()
	}
	flags := binary.LittleEndian.Uint32(b)
	c.more = flags&flagMore != 0
	b = b[4:]
	if flags&flagSum != 0 && !c.cut {
		if len(b) < 4 {
			return fmt.Errorf("%w: no room for a checksum", ErrMessage)
		}
		b = b[:len(b)-4]
	}
	for len(b) > 4 {
		kind, n := b[0], int(int32(binary.LittleEndian.Uint32(b[1:])))
		if n < 5 {
			return fmt.Errorf("%w: section of %d bytes", ErrMessage, n)
		}
		part, cut := b[1:], true
		if n <= len(part) {
			part, cut = part[:n], false
		} else if !c.cut {
			return fmt.Errorf("%w: section of %d bytes, %d are there", ErrMessage, n, len(part))
		}
		switch kind {
		case 0:
			if c.body == nil {
				c.body = part
			}
		case 1:
			c.addSequence(part[4:], cut)
		default:
			return fmt.Errorf("%w: section of kind %d", ErrMessage, kind)
		}
		b = b[1+len(part):]
	}
	p.sections = c.sections // the array, for the next message
	return nil
}

func (c *content) addSequence(b []byte, cut bool) {
	for i, ch := range b {
		if ch == 0 && len(c.sections) < maxSections {
			c.sections = append(c.sections, section{id: b[:i], docs: b[i+1:], cut: cut})
			return
		}
	}
}

// unpackQuery: flags, full collection name, skip, count, query.
func (c *content) unpackQuery(b []byte) error {
	if len(b) < 4 {
		return c.short()
	}
	b = b[4:]
	for i, ch := range b {
		if ch == 0 {
			c.ns = b[:i]
			if len(b) >= i+1+8 {
				c.body = b[i+1+8:]
			}
			return nil
		}
	}
	return c.short()
}

// unpackReply: flags, cursor id, starting from, number of documents, documents.
func (c *content) unpackReply(b []byte) error {
	if len(b) < 20 {
		return c.short()
	}
	c.body = b[20:]
	return nil
}

// short is the error for content that ends too early, nil if only the beginning was kept.
func (c *content) short() error {
	if c.cut {
		return nil
	}
	return fmt.Errorf("%w: it ends too early", ErrMessage)
}
