package standin

import (
	"bytes"
	"compress/zlib"
	"encoding/binary"
	"fmt"
	"io"

	"github.com/klauspost/compress/snappy"
	"github.com/klauspost/compress/zstd"
)

const (
	headerLen    = 16
	opReply      = 1
	opCompressed = 2012
	opMsg        = 2013
)

var compressors = map[string]byte{"snappy": 1, "zlib": 2, "zstd": 3}

func opcode(m []byte) uint32 { return binary.LittleEndian.Uint32(m[12:]) }

func setLen(m []byte) []byte {
	binary.LittleEndian.PutUint32(m, uint32(len(m)))
	return m
}

// unpack returns the message in an OP_COMPRESSED.
func unpack(m []byte) ([]byte, error) {
	if opcode(m) != opCompressed {
		return m, nil
	}
	b := m[headerLen:]
	var body []byte
	var err error
	switch b[8] {
	case 1:
		body, err = snappy.Decode(nil, b[9:])
	case 2:
		var r io.ReadCloser
		if r, err = zlib.NewReader(bytes.NewReader(b[9:])); err == nil {
			body, err = io.ReadAll(r)
		}
	case 3:
		var r *zstd.Decoder
		if r, err = zstd.NewReader(nil); err == nil {
			body, err = r.DecodeAll(b[9:], nil)
		}
	default:
		err = fmt.Errorf("compressor %d", b[8])
	}
	if err != nil {
		return nil, err
	}
	out := append(append([]byte{}, m[:12]...), b[:4]...)
	return setLen(append(out, body...)), nil
}

// pack is the OP_COMPRESSED of a message.
func pack(m []byte, compressor string) ([]byte, error) {
	out := append([]byte{}, m[:12]...)
	out = binary.LittleEndian.AppendUint32(out, opCompressed)
	out = append(out, m[12:16]...)
	out = binary.LittleEndian.AppendUint32(out, uint32(len(m)-headerLen))
	out = append(out, compressors[compressor])
	switch compressor {
	case "snappy":
		out = append(out, snappy.Encode(nil, m[headerLen:])...)
	case "zlib":
		var b bytes.Buffer
		w := zlib.NewWriter(&b)
		if _, err := w.Write(m[headerLen:]); err != nil {
			return nil, err
		}
		if err := w.Close(); err != nil {
			return nil, err
		}
		out = append(out, b.Bytes()...)
	case "zstd":
		w, err := zstd.NewWriter(nil)
		if err != nil {
			return nil, err
		}
		out = w.EncodeAll(m[headerLen:], out)
	}
	return setLen(out), nil
}
