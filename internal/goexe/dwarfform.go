package goexe

import (
	"bytes"
	"encoding/binary"
	"io"
)

// The few DWARF constants that we look at.
const (
	tagMember     = 0x0d
	tagStructType = 0x13

	attrName          = 0x03
	attrByteSize      = 0x0b
	attrLanguage      = 0x13
	attrDataMemberLoc = 0x38

	langGo = 0x16

	opPlusUconst = 0x23

	formString        = 0x08
	formImplicitConst = 0x21
	formIndirect      = 0x16
)

// abbrev declares the shape of entries.
type abbrev struct {
	tag      uint64
	children bool
	attrs    []abbrevAttr
}

type abbrevAttr struct {
	name, form uint64
	implicit   int64
}

// abbrevs is one abbreviation table. Codes are small and dense in practice;
// the others are in a map.
type abbrevs struct {
	dense []*abbrev
	rest  map[uint64]*abbrev
}

func (a *abbrevs) get(code uint64) *abbrev {
	if code < uint64(len(a.dense)) {
		return a.dense[code]
	}
	return a.rest[code]
}

func parseAbbrevs(tab []byte, off uint64) (*abbrevs, error) {
	if off > uint64(len(tab)) {
		return nil, corrupt("debug abbreviations at %#x of %#x", off, len(tab))
	}
	r := bytes.NewReader(tab[off:])
	out := &abbrevs{dense: make([]*abbrev, 512), rest: make(map[uint64]*abbrev)}
	bad := corrupt("debug abbreviations at %#x", off)
	for n := 0; ; n++ {
		code, err := binary.ReadUvarint(r)
		if err != nil || n > maxAbbrevs {
			return nil, bad
		}
		if code == 0 {
			return out, nil
		}
		d := new(abbrev)
		if d.tag, err = binary.ReadUvarint(r); err != nil {
			return nil, bad
		}
		children, err := r.ReadByte()
		if err != nil {
			return nil, bad
		}
		d.children = children != 0
		if err := d.parseAttrs(r); err != nil {
			return nil, bad
		}
		if code < uint64(len(out.dense)) {
			out.dense[code] = d
		} else {
			out.rest[code] = d
		}
	}
}

func (d *abbrev) parseAttrs(r *bytes.Reader) error {
	for {
		var a abbrevAttr
		var err error
		if a.name, err = binary.ReadUvarint(r); err != nil {
			return err
		}
		if a.form, err = binary.ReadUvarint(r); err != nil {
			return err
		}
		if a.form == formImplicitConst {
			if a.implicit, err = readSleb(r); err != nil {
				return err
			}
		}
		if a.name == 0 && a.form == 0 {
			return nil
		}
		if len(d.attrs) >= maxAbbrevAttrs {
			return io.ErrUnexpectedEOF
		}
		d.attrs = append(d.attrs, a)
	}
}

func readSleb(r io.ByteReader) (int64, error) {
	var v int64
	for shift := uint(0); shift < 70; shift += 7 {
		b, err := r.ReadByte()
		if err != nil {
			return 0, err
		}
		v |= int64(b&0x7f) << shift
		if b&0x80 == 0 {
			if b&0x40 != 0 && shift+7 < 64 {
				v |= -1 << (shift + 7)
			}
			return v, nil
		}
	}
	return 0, io.ErrUnexpectedEOF
}

// stream reads a section forward with one small buffer. The first error stays;
// reads after it return zero.
type stream struct {
	src     io.Reader
	buf     []byte
	i, n    int
	pos     uint64 // of the next byte in the section
	size    uint64
	err     error
	nameBuf []byte
}

func newStream(src io.Reader, size uint64) *stream {
	return &stream{src: src, size: size, buf: make([]byte, 64<<10)}
}

// need makes n bytes available in buf, n at most its length.
func (s *stream) need(n int) bool {
	if s.n-s.i >= n {
		return true
	}
	if s.err != nil || n > len(s.buf) {
		s.fail()
		return false
	}
	s.n = copy(s.buf, s.buf[s.i:s.n])
	s.i = 0
	for s.n < n {
		k, err := s.src.Read(s.buf[s.n:])
		if s.n += k; err != nil && s.n < n {
			s.fail()
			return false
		}
	}
	return true
}

func (s *stream) fail() {
	if s.err == nil {
		s.err = corrupt("debug information ends at %#x of %#x", s.pos, s.size)
	}
	s.i, s.n = 0, 0
}

// take returns the next n bytes, n at most 8.
func (s *stream) take(n int) []byte {
	if !s.need(n) {
		return make([]byte, n)
	}
	b := s.buf[s.i : s.i+n]
	s.i += n
	s.pos += uint64(n)
	return b
}

func (s *stream) u8() byte    { return s.take(1)[0] }
func (s *stream) u16() uint16 { return binary.LittleEndian.Uint16(s.take(2)) }
func (s *stream) u32() uint32 { return binary.LittleEndian.Uint32(s.take(4)) }
func (s *stream) u64() uint64 { return binary.LittleEndian.Uint64(s.take(8)) }

func (s *stream) offset(dwarf64 bool) uint64 {
	if dwarf64 {
		return s.u64()
	}
	return uint64(s.u32())
}

func (s *stream) uleb() uint64 {
	var v uint64
	for shift := uint(0); shift < 70; shift += 7 {
		b := s.u8()
		v |= uint64(b&0x7f) << shift
		if b&0x80 == 0 {
			return v
		}
	}
	s.fail()
	return 0
}

// cString returns the next NUL-terminated string, cut at the buffer's length;
// it is valid until the stream is read again.
func (s *stream) cString() []byte {
	if i := bytes.IndexByte(s.buf[s.i:s.n], 0); i >= 0 {
		b := s.buf[s.i : s.i+i]
		s.i += i + 1
		s.pos += uint64(i) + 1
		return b
	}
	for n := s.n - s.i + 1; n <= maxFuncName && s.need(n); n = s.n - s.i + 1 {
		if i := bytes.IndexByte(s.buf[s.i:s.n], 0); i >= 0 {
			b := s.buf[s.i : s.i+i]
			s.i += i + 1
			s.pos += uint64(i) + 1
			return b
		}
	}
	for s.err == nil && s.u8() != 0 { // absurdly long: no name of ours
	}
	return nil
}

func (s *stream) skip(n uint64) {
	if n > s.size-min(s.pos, s.size) {
		s.fail()
		return
	}
	for n > 0 && s.need(1) {
		k := min(uint64(s.n-s.i), n)
		s.i += int(k)
		s.pos += k
		n -= k
	}
}

// skipTo moves forward to a position; a unit that was read beyond its end is corrupt.
func (s *stream) skipTo(pos uint64) error {
	if s.err == nil && pos < s.pos {
		return corrupt("debug unit ends at %#x but its entries go on to %#x", pos, s.pos)
	}
	if s.err == nil {
		s.skip(pos - s.pos)
	}
	return s.err
}

// constant reads an attribute of class constant, or a location expression that
// is one (DW_OP_plus_uconst).
func (s *stream) constant(a abbrevAttr, u unit) (uint64, bool) {
	switch a.form {
	case 0x0b: // data1
		return uint64(s.u8()), true
	case 0x05: // data2
		return uint64(s.u16()), true
	case 0x06: // data4
		return uint64(s.u32()), true
	case 0x07: // data8
		return s.u64(), true
	case 0x0f: // udata
		return s.uleb(), true
	case 0x0d: // sdata
		v, err := readSleb(byteReader{s})
		if err != nil {
			s.fail()
		}
		return uint64(v), v >= 0
	case formImplicitConst:
		return uint64(a.implicit), a.implicit >= 0
	case 0x0a, 0x18: // block1, exprloc
		n := uint64(0)
		if a.form == 0x0a {
			n = uint64(s.u8())
		} else {
			n = s.uleb()
		}
		if n < 2 || n > 11 {
			s.skip(n)
			return 0, false
		}
		end := s.pos + n
		op, v := s.u8(), s.uleb()
		if s.pos > end {
			s.fail()
			return 0, false
		}
		s.skip(end - s.pos)
		return v, op == opPlusUconst
	}
	s.skipForm(a, u)
	return 0, false
}

type byteReader struct{ s *stream }

func (b byteReader) ReadByte() (byte, error) {
	v := b.s.u8()
	return v, b.s.err
}

// skipForm skips one attribute's value.
func (s *stream) skipForm(a abbrevAttr, u unit) {
	form := a.form
	for range 4 { // an indirect form names another one; more than a few is nonsense
		if form != formIndirect {
			break
		}
		form = s.uleb()
	}
	offset := uint64(4)
	if u.dwarf64 {
		offset = 8
	}
	switch form {
	case formString:
		s.cString()
	case 0x19, formImplicitConst: // flag_present
	case 0x0b, 0x0c, 0x11, 0x25, 0x29: // data1, flag, ref1, strx1, addrx1
		s.skip(1)
	case 0x05, 0x12, 0x26, 0x2a: // data2, ref2, strx2, addrx2
		s.skip(2)
	case 0x27, 0x2b: // strx3, addrx3
		s.skip(3)
	case 0x06, 0x13, 0x1c, 0x28, 0x2c: // data4, ref4, ref_sup4, strx4, addrx4
		s.skip(4)
	case 0x01, 0x07, 0x14, 0x20, 0x24: // addr, data8, ref8, ref_sig8, ref_sup8
		s.skip(8)
	case 0x1e: // data16
		s.skip(16)
	case 0x0d, 0x0f, 0x15, 0x1a, 0x1b, 0x22, 0x23: // sdata, udata, ref_udata, strx, addrx, loclistx, rnglistx
		s.uleb()
	case 0x0e, 0x17, 0x1d, 0x1f, 0x1f20, 0x1f21: // strp, sec_offset, strp_sup, line_strp, GNU alt
		s.skip(offset)
	case 0x10: // ref_addr
		if u.version == 2 {
			offset = 8
		}
		s.skip(offset)
	case 0x0a: // block1
		s.skip(uint64(s.u8()))
	case 0x03: // block2
		s.skip(uint64(s.u16()))
	case 0x04: // block4
		s.skip(uint64(s.u32()))
	case 0x09, 0x18: // block, exprloc
		s.skip(s.uleb())
	default:
		if s.err == nil {
			s.err = corrupt("debug attribute of the unknown form %#x", form)
		}
	}
}
