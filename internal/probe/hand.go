package probe

import (
	"context"
	"maps"
)

// Hand says how traces of a process are handed on to the next service: some of the
// constants below, enum tr_hand in bpf/lib/procs.h.
type Hand uint32

const (
	// HandJoin joins both ends of a connection on this host.
	HandJoin Hand = 1 << iota
	// HandMemory writes a header into requests in the process's memory.
	HandMemory
	// HandKernel lets the kernel push a header line into plaintext HTTP/1.
	HandKernel
)

// writeGroups are the groups with points that change a target's memory.
func (s *Spec) writeGroups() map[string]bool {
	out := map[string]bool{}
	for _, pt := range s.Points {
		if pt.Writes {
			out[pt.Group] = true
		}
	}
	return out
}

// holdWrites keeps the groups that write from being attached until a process wants them.
func (m *Manager) holdWrites(a *Attached) {
	a.held = map[string]map[string]bool{}
	for _, s := range m.opts.Specs {
		groups := a.Placed[s.Name].Groups
		held := maps.Clone(groups)
		maps.DeleteFunc(held, func(name string, _ bool) bool { return !s.writeGroups()[name] })
		maps.DeleteFunc(groups, func(name string, _ bool) bool { return held[name] })
		a.held[s.Name] = held
	}
}

// attachWrites attaches what holdWrites kept; a group that cannot be is refused: its
// requests are joined.
func (m *Manager) attachWrites(ctx context.Context, a *Attached) {
	a.writing.Lock()
	defer a.writing.Unlock()
	held := a.held
	if held == nil {
		return
	}
	a.held = nil
	for _, s := range m.opts.Specs {
		p := a.Placed[s.Name]
		if len(held[s.Name]) == 0 || len(p.Groups) == 0 {
			continue
		}
		maps.Copy(p.Groups, held[s.Name])
		if err := s.AttachExe(m.colls[s.Name], p); err != nil {
			for name := range held[s.Name] {
				delete(p.Groups, name)
				p.Refused[name] = err
			}
			continue
		}
		for _, g := range s.Groups {
			if held[s.Name][g.Name] {
				m.attachOrRefuse(ctx, a, s, g)
			}
		}
	}
	m.describeHands(a)
}

// attachOrRefuse attaches a group and says whether it could.
func (m *Manager) attachOrRefuse(ctx context.Context, a *Attached, s *Spec, g Group) bool {
	err := m.attachGroup(ctx, a, s, g)
	if err != nil {
		p := a.Placed[s.Name]
		p.Refused[g.Name] = err
		delete(p.Groups, g.Name)
		// The other groups' programs must not count on this one's.
		if werr := s.AttachExe(m.colls[s.Name], p); werr != nil {
			m.log.Warn("telling a probe what is attached", "probe", s.Name, "exe", a.Ref.Path, "err", werr)
		}
	}
	return err == nil
}

// describeHands notes what is done in the executable to hand traces on.
func (m *Manager) describeHands(a *Attached) {
	a.Propagation = nil
	for _, s := range m.opts.Specs {
		if s.Propagation != nil && len(a.Placed[s.Name].Groups) > 0 {
			a.Propagation = a.Propagation.with(s.Propagation(a.Placed[s.Name]))
		}
	}
}
