package mongo

import (
	"bytes"
	"compress/zlib"
	"encoding/binary"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
)

// Compressors of OP_COMPRESSED.
const (
	compressNone   = 0
	compressSnappy = 1
	compressZlib   = 2
	compressZstd   = 3
)

// maxUnpacked bounds what is decompressed of one message: the head is what counts.
const maxUnpacked = 64 << 10

// decompress returns the original opcode and what can be had of the original message
// behind its header. Compressed data that ends early gives the part before.
func (p *Parser) decompress(b []byte, c *content) (opcode int32, out []byte, err error) {
	if len(b) < 9 {
		return 0, nil, fmt.Errorf("%w: compressed message of %d bytes", ErrMessage, len(b))
	}
	opcode = int32(binary.LittleEndian.Uint32(b))
	size, data := int(int32(binary.LittleEndian.Uint32(b[4:]))), b[9:]
	if size < 0 || size > maxMessage {
		return 0, nil, fmt.Errorf("%w: uncompressed length %d", ErrMessage, size)
	}
	if p.unpacked == nil {
		p.unpacked = make([]byte, maxUnpacked)
	}
	dst := p.unpacked[:min(size, maxUnpacked)]
	var n int
	switch b[8] {
	case compressNone:
		n = copy(dst, data)
	case compressSnappy:
		n = snappyPrefix(dst, data)
	case compressZlib:
		n, err = p.inflate(dst, data)
	case compressZstd:
		n, err = p.unzstd(dst, data)
	default:
		err = fmt.Errorf("compressor %d", b[8])
	}
	if err != nil {
		return 0, nil, fmt.Errorf("%w: %w", ErrMessage, err)
	}
	if n == 0 && size > 0 && c.cut {
		return 0, nil, ErrCut
	}
	if n == 0 && size > 0 {
		return 0, nil, fmt.Errorf("%w: nothing could be decompressed", ErrMessage)
	}
	c.cut = n < size
	return opcode, dst[:n], nil
}

func (p *Parser) inflate(dst, data []byte) (int, error) {
	p.in.Reset(data)
	var err error
	if p.zlib == nil {
		p.zlib, err = zlib.NewReader(&p.in)
	} else {
		err = p.zlib.(zlib.Resetter).Reset(&p.in, nil)
	}
	if err != nil {
		return 0, err
	}
	n, _ := io.ReadFull(p.zlib, dst) // as much as there is
	return n, nil
}

func (p *Parser) unzstd(dst, data []byte) (int, error) {
	p.in.Reset(data)
	var err error
	if p.zstd == nil {
		// One goroutine's work at a time, and a window as small as the head needs: a
		// frame that asks for more memory is refused.
		p.zstd, err = zstd.NewReader(&p.in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
			zstd.WithDecoderMaxMemory(maxMessage), zstd.WithDecoderMaxWindow(8<<20))
	} else {
		err = p.zstd.Reset(&p.in)
	}
	if err != nil {
		return 0, err
	}
	n, _ := io.ReadFull(p.zstd, dst)
	return n, nil
}

// snappyPrefix decodes the beginning of a block. The libraries decode whole blocks only;
// here the block may end early. https://github.com/google/snappy/blob/1.2.1/format_description.txt
func snappyPrefix(dst, src []byte) int {
	_, n := binary.Uvarint(src)
	if n <= 0 {
		return 0
	}
	src = src[n:]
	d := 0
	for len(src) > 0 && d < len(dst) {
		tag := src[0]
		src = src[1:]
		if tag&3 == 0 {
			length, used := snappyLiteral(tag, src)
			if used < 0 {
				return d
			}
			src = src[used:]
			k := copy(dst[d:], src[:min(length, len(src))])
			d += k
			src = src[k:]
			if k < length {
				return d
			}
			continue
		}
		length, offset, used := snappyCopy(tag, src)
		if used < 0 || offset == 0 || offset > d {
			return d
		}
		src = src[used:]
		for range min(length, len(dst)-d) { // source and destination may overlap
			dst[d] = dst[d-offset]
			d++
		}
	}
	return d
}

// snappyLiteral returns a literal's length and how many bytes of src say it, -1: too few.
func snappyLiteral(tag byte, src []byte) (length, used int) {
	length = int(tag >> 2)
	if length < 60 {
		return length + 1, 0
	}
	used = length - 59
	if len(src) < used {
		return 0, -1
	}
	length = 0
	for i := range used {
		length |= int(src[i]) << (8 * i)
	}
	return length + 1, used
}

func snappyCopy(tag byte, src []byte) (length, offset, used int) {
	used = []int{0, 1, 2, 4}[tag&3]
	if len(src) < used {
		return 0, 0, -1
	}
	switch used {
	case 1:
		return 4 + int(tag>>2&7), int(tag>>5)<<8 | int(src[0]), used
	case 2:
		return 1 + int(tag>>2), int(binary.LittleEndian.Uint16(src)), used
	}
	return 1 + int(tag>>2), int(binary.LittleEndian.Uint32(src)), used
}

// inputs are kept between messages.
type inputs struct {
	in       bytes.Reader
	zlib     io.ReadCloser
	zstd     *zstd.Decoder
	unpacked []byte
}
