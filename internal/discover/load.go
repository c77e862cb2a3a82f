package discover

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
)

// objects are the loaded programs and maps of one Watcher.
type objects struct {
	coll *ebpf.Collection
	// exec and tasks are the variant that this kernel accepts.
	exec, tasks *ebpf.Program
	findVMA     bool
}

func (o *objects) Close() {
	if o != nil {
		o.coll.Close()
	}
}

// MapSpecs returns the specs of the two shared maps, for the one who owns them.
func MapSpecs() (procs, exeAuto *ebpf.MapSpec, err error) {
	spec, err := loadBpf()
	if err != nil {
		return nil, nil, fmt.Errorf("discover: %w", err)
	}
	return spec.Maps[bpfMapTrProcs].Copy(), spec.Maps[bpfMapTrExeAuto].Copy(), nil
}

// CollectionSpec returns all programs, both variants of those that have two, for
// tests of what a kernel accepts.
func CollectionSpec() (*ebpf.CollectionSpec, error) { return loadBpf() }

// load loads what opts ask for: the programs that use bpf_find_vma, or those that
// do without on kernels before 5.17. With scanOnly just the iterator.
func load(opts Options, scanOnly bool) (*objects, error) {
	objs, errNew := loadVariant(opts, scanOnly, true)
	if errNew == nil {
		return objs, nil
	}
	objs, err := loadVariant(opts, scanOnly, false)
	if err == nil {
		return objs, nil
	}
	return nil, fmt.Errorf("load process discovery programs: %w",
		errors.Join(err, fmt.Errorf("with bpf_find_vma: %w", errNew)))
}

func loadVariant(opts Options, scanOnly, findVMA bool) (*objects, error) {
	spec, err := loadBpf()
	if err != nil {
		return nil, err
	}
	execName, tasksName := bpfProgDiExecOld, bpfProgDiTasksOld
	drop := []string{bpfProgDiExec, bpfProgDiTasks}
	if findVMA {
		execName, tasksName, drop[0], drop[1] = drop[0], drop[1], execName, tasksName
	}
	if scanOnly {
		drop = append(drop, execName, bpfProgDiExit)
	}
	if scanOnly {
		drop = append(drop, bpfProgDiListen)
	}
	for _, name := range drop {
		delete(spec.Programs, name)
	}
	if scanOnly {
		clear(spec.Maps)
	}

	replace := map[string]*ebpf.Map{}
	if opts.Procs != nil {
		replace[bpfMapTrProcs] = opts.Procs
	}
	if opts.ExeAuto != nil {
		replace[bpfMapTrExeAuto] = opts.ExeAuto
	}
	coll, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: replace})
	if err != nil {
		return nil, err
	}
	return &objects{
		coll:    coll,
		exec:    coll.Programs[execName],
		tasks:   coll.Programs[tasksName],
		findVMA: findVMA,
	}, nil
}
