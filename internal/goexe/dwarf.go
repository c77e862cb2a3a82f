package goexe

import (
	"bytes"
	"compress/zlib"
	"debug/elf"
	"encoding/binary"
	"errors"
	"io"
	"strings"
)

// Bounds of a pass over debug information.
const (
	maxDebugInfo   = 512 << 20 // bytes of .debug_info after decompression
	maxAbbrevBytes = 16 << 20
	maxAbbrevs     = 1 << 16 // declarations in one abbreviation table
	maxAbbrevAttrs = 256
	maxDepth       = 1 << 12
)

// SizeField is the name of a pseudo-field: the size in bytes of its type.
const SizeField = "(size)"

// DWARFOffsets looks the fields up in the executable's own debug information in
// one pass over it. Fields that it does not have are missing from the map. Of
// a type that the linker prefixes with "noalg.", the prefix is left out. The
// error wraps ErrNoOffsets when there is no debug information, else ErrCorrupt.
func (e *Exe) DWARFOffsets(fields []Field) (out map[Field]int64, err error) {
	defer recovered(&err)
	info, size, err := e.im.debugSection("info")
	if err != nil {
		return nil, err
	}
	abbrevs, abbrevSize, err := e.im.debugSection("abbrev")
	if err != nil {
		return nil, err
	}
	if abbrevSize > maxAbbrevBytes || size > maxDebugInfo {
		return nil, corrupt("%d bytes of debug information with %d of abbreviations", size, abbrevSize)
	}
	tab, err := io.ReadAll(io.LimitReader(abbrevs, maxAbbrevBytes))
	if err != nil {
		return nil, corrupt("debug abbreviations: %v", err)
	}
	p := diePass{
		r: newStream(info, size), abbrevTab: tab,
		want: make(map[string]map[string][]Field), out: make(map[Field]int64),
	}
	for _, f := range fields {
		if p.want[f.Type] == nil {
			p.want[f.Type] = make(map[string][]Field)
		}
		p.want[f.Type][f.Name] = append(p.want[f.Type][f.Name], f)
	}
	p.left = len(p.want)
	if err := p.run(); err != nil {
		return nil, err
	}
	return p.out, nil
}

// debugSection opens .debug_name, compressed or not, and returns its size after
// decompression.
func (im *image) debugSection(name string) (io.Reader, uint64, error) {
	if s, ok := im.section(".debug_" + name); ok {
		raw := io.NewSectionReader(im.r, int64(s.off), int64(s.size))
		if s.off > uint64(im.size) || s.size > uint64(im.size)-s.off {
			return nil, 0, corrupt("%s lies beyond the file", s.name)
		}
		if s.flags&elf.SHF_COMPRESSED == 0 {
			return raw, s.size, nil
		}
		var hdr elf.Chdr64
		if err := binary.Read(raw, binary.LittleEndian, &hdr); err != nil {
			return nil, 0, corrupt("%s: %v", s.name, err)
		}
		if elf.CompressionType(hdr.Type) != elf.COMPRESS_ZLIB {
			return nil, 0, corrupt("%s is compressed by %s, which cannot be read", s.name, elf.CompressionType(hdr.Type))
		}
		return inflate(raw, s.name, hdr.Size)
	}
	s, ok := im.section(".zdebug_" + name)
	if !ok {
		return nil, 0, ErrNoOffsets
	}
	var hdr [12]byte // "ZLIB" and the size, big-endian
	if err := im.readAt(hdr[:], s.off); err != nil {
		return nil, 0, err
	}
	if string(hdr[:4]) != "ZLIB" || s.size < 12 {
		return nil, 0, corrupt("%s has no ZLIB header", s.name)
	}
	raw := io.NewSectionReader(im.r, int64(s.off)+12, int64(s.size)-12)
	return inflate(raw, s.name, binary.BigEndian.Uint64(hdr[4:]))
}

func inflate(r io.Reader, name string, size uint64) (io.Reader, uint64, error) {
	z, err := zlib.NewReader(r)
	if err != nil {
		return nil, 0, corrupt("%s: %v", name, err)
	}
	return z, size, nil
}

// diePass is one pass over the debugging information entries.
type diePass struct {
	r         *stream
	abbrevTab []byte
	abbrevs   map[uint64]*abbrevs // by offset
	want      map[string]map[string][]Field
	out       map[Field]int64
	left      int // types not seen yet
}

// unit is a compilation unit's header.
type unit struct {
	version  uint16
	addrSize int
	end      uint64
	dwarf64  bool
}

var errUnitDone = errors.New("unit done")

func (p *diePass) run() error {
	p.abbrevs = make(map[uint64]*abbrevs)
	for p.left > 0 && p.r.pos < p.r.size {
		u, ab, err := p.unitHeader()
		if err != nil {
			return err
		}
		if ab != nil {
			if err := p.unit(u, ab); err != nil && !errors.Is(err, errUnitDone) {
				return err
			}
		}
		if err := p.r.skipTo(u.end); err != nil {
			return err
		}
	}
	return nil
}

func (p *diePass) unitHeader() (unit, *abbrevs, error) {
	var u unit
	length := uint64(p.r.u32())
	if length == 0xffffffff {
		u.dwarf64 = true
		length = p.r.u64()
	}
	start := p.r.pos
	if p.r.err != nil {
		return u, nil, p.r.err
	}
	if length < 7 || length > p.r.size-start {
		return u, nil, corrupt("debug unit of %d bytes at %#x", length, start)
	}
	u.end = start + length
	u.version = p.r.u16()
	var abbrevOff uint64
	switch {
	case u.version == 5:
		unitType := p.r.u8()
		u.addrSize = int(p.r.u8())
		abbrevOff = p.r.offset(u.dwarf64)
		if unitType != 1 && unitType != 3 { // neither compile nor partial
			return u, nil, p.r.err
		}
	case u.version >= 2 && u.version <= 4:
		abbrevOff = p.r.offset(u.dwarf64)
		u.addrSize = int(p.r.u8())
	default:
		return u, nil, p.r.err // skip what we do not know
	}
	if p.r.err != nil {
		return u, nil, p.r.err
	}
	if u.addrSize != 8 {
		return u, nil, corrupt("debug unit with addresses of %d bytes", u.addrSize)
	}
	ab, ok := p.abbrevs[abbrevOff]
	if !ok {
		var err error
		if ab, err = parseAbbrevs(p.abbrevTab, abbrevOff); err != nil {
			return u, nil, err
		}
		if len(p.abbrevs) > 64 { // every C unit has its own
			clear(p.abbrevs)
		}
		p.abbrevs[abbrevOff] = ab
	}
	return u, ab, nil
}

// unit walks the entries of one unit. Entries that cannot be of interest are
// skipped attribute by attribute, because nothing says how long they are.
func (p *diePass) unit(u unit, ab *abbrevs) error {
	r := p.r
	depth, first := 0, true
	var fields map[string][]Field // of the wanted struct that we are in
	structDepth := 0
	for r.pos < u.end && r.err == nil {
		code := r.uleb()
		if code == 0 {
			if depth--; fields != nil && depth <= structDepth {
				if fields = nil; p.left == 0 {
					return nil
				}
			}
			if depth <= 0 {
				break
			}
			continue
		}
		d := ab.get(code)
		if d == nil {
			return corrupt("debug entry at %#x has the unknown form %d", r.pos, code)
		}
		var die dieValues
		named := d.tag == tagStructType && (fields == nil) || d.tag == tagMember && fields != nil && depth == structDepth+1
		p.values(d, u, named, &die)
		if r.err != nil {
			break
		}
		switch {
		case first && die.hasLanguage && die.language != langGo:
			return errUnitDone // C: nothing of ours in it
		case d.tag == tagStructType && fields == nil:
			name := bytes.TrimPrefix(die.name, []byte("noalg."))
			if w, ok := p.want[string(name)]; ok {
				p.record(w[SizeField], die.size)
				delete(p.want, string(name)) // the first one counts
				p.left--
				if d.children {
					fields, structDepth = w, depth
				}
			}
		case d.tag == tagMember && named && die.hasLocation:
			p.record(fields[string(die.name)], die.location)
		}
		first = false
		if d.children {
			if depth++; depth > maxDepth {
				return corrupt("debug entries nested deeper than %d", maxDepth)
			}
		} else if depth == 0 {
			break
		}
		if p.left == 0 && fields == nil {
			return nil
		}
	}
	return r.err
}

func (p *diePass) record(fields []Field, value uint64) {
	if value > 1<<31 {
		return
	}
	for _, f := range fields {
		p.out[f] = int64(value)
	}
}

// dieValues are the attributes of one entry that matter. name is valid until
// the stream is read again.
type dieValues struct {
	name                     []byte
	size, location, language uint64
	hasLocation, hasLanguage bool
}

// values reads or skips an entry's attributes. The name is the first attribute
// of every Go type, and it is copied, because later ones move the stream.
func (p *diePass) values(d *abbrev, u unit, named bool, out *dieValues) {
	for _, a := range d.attrs {
		switch {
		case a.name == attrName && named && a.form == formString:
			p.r.nameBuf = append(p.r.nameBuf[:0], p.r.cString()...)
			out.name = p.r.nameBuf
		case a.name == attrByteSize || a.name == attrDataMemberLoc || a.name == attrLanguage:
			v, ok := p.r.constant(a, u)
			switch a.name {
			case attrByteSize:
				out.size = v
			case attrDataMemberLoc:
				out.location, out.hasLocation = v, ok
			default:
				out.language, out.hasLanguage = v, ok
			}
		default:
			p.r.skipForm(a, u)
		}
		if p.r.err != nil {
			return
		}
	}
}

// describe is what an error says about the missing fields.
func describe(fields []Field) string {
	var s []string
	for _, f := range fields[:min(len(fields), 3)] {
		s = append(s, f.String())
	}
	if len(fields) > 3 {
		s = append(s, "...")
	}
	return strings.Join(s, ", ")
}
