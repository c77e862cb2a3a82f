package probe

import (
	"context"
	"errors"
	"slices"
)

// Mute detaches the probes of an executable that are off, and attaches those that are
// not again. What was refused stays refused.
func (m *Manager) Mute(a *Attached, off func(probe string) bool) error {
	a.tuning.Lock()
	defer a.tuning.Unlock()
	var errs []error
	for _, s := range m.opts.Specs {
		a.mu.Lock()
		was := a.muted[s.Name]
		a.mu.Unlock()
		switch now := off(s.Name); {
		case now && !was:
			a.setMuted(s.Name, true)
			_, err := a.closeLinks(func(k pointKey) bool { return k.spec == s.Name })
			errs = append(errs, err)
			m.forgetSpec(s, a.ID)
		case was && !now:
			a.setMuted(s.Name, false)
			errs = append(errs, m.attachAgain(a, s))
		}
	}
	return errors.Join(errs...)
}

func (a *Attached) setMuted(spec string, on bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.muted == nil {
		a.muted = map[string]bool{}
	}
	a.muted[spec] = on
}

// Muted says whether a probe is off on the executable.
func (a *Attached) Muted(spec string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.muted[spec]
}

func (m *Manager) attachAgain(a *Attached, s *Spec) error {
	// Here, and not where nothing changes: it waits while a program is verified.
	defer m.releaseParsed()
	var errs []error
	writes := s.writeGroups()
	// First what writes: the others' programs count on it, and are told if it cannot be.
	for _, g := range s.Groups {
		if writes[g.Name] && a.Placed[s.Name].Groups[g.Name] && !m.attachOrRefuse(context.Background(), a, s, g) {
			errs = append(errs, a.Placed[s.Name].Refused[g.Name])
		}
	}
	for _, g := range s.Groups {
		if !writes[g.Name] && a.Placed[s.Name].Groups[g.Name] {
			errs = append(errs, m.attachGroup(context.Background(), a, s, g))
		}
	}
	return errors.Join(errs...)
}

// forgetSpec deletes the operations in flight whose end a probe will not see.
func (m *Manager) forgetSpec(s *Spec, exeID uint32) {
	if len(s.InFlight) == 0 {
		return
	}
	for pid := range m.pidsOf(exeID) {
		m.forgetIf(pid, func(f InFlight, _ []byte) bool {
			return slices.ContainsFunc(s.InFlight, func(own InFlight) bool { return own.Map == f.Map })
		})
	}
}
