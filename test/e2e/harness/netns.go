package harness

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// NetNS is a network namespace that lives as long as the test.
type NetNS struct{ Name string }

var netNSCount atomic.Int64

// NewNetNS makes a network namespace with its loopback interface up.
func NewNetNS(t testing.TB) NetNS {
	t.Helper()
	if _, err := exec.LookPath("ip"); err != nil {
		t.Fatal("needs ip: apt-get install iproute2")
	}
	ns := NetNS{fmt.Sprintf("tracer-test-%d-%d", os.Getpid(), netNSCount.Add(1))}
	run(t, "ip", "netns", "add", ns.Name)
	t.Cleanup(func() { run(t, "ip", "netns", "delete", ns.Name) })
	ns.IP(t, "link", "set", "lo", "up")
	return ns
}

// IP runs ip(8) in the namespace.
func (ns NetNS) IP(t testing.TB, args ...string) {
	t.Helper()
	run(t, "ip", append([]string{"-n", ns.Name}, args...)...)
}

// Run runs a command in the namespace.
func (ns NetNS) Run(t testing.TB, args ...string) {
	t.Helper()
	run(t, "ip", append([]string{"netns", "exec", ns.Name}, args...)...)
}

// Veth joins two namespaces by a pair of interfaces with these addresses (CIDR).
func Veth(t testing.TB, a NetNS, addrA string, b NetNS, addrB string) {
	t.Helper()
	n := netNSCount.Add(1)
	nameA, nameB := fmt.Sprintf("tt%da", n), fmt.Sprintf("tt%db", n)
	a.IP(t, "link", "add", nameA, "type", "veth", "peer", "name", nameB, "netns", b.Name)
	for _, end := range []struct {
		ns         NetNS
		name, addr string
	}{{a, nameA, addrA}, {b, nameB, addrB}} {
		end.ns.IP(t, "addr", "add", end.addr, "dev", end.name)
		end.ns.IP(t, "link", "set", end.name, "up")
	}
}

// Start is StartTarget in the namespace.
func (ns NetNS) Start(t testing.TB, path string, args ...string) *Target {
	t.Helper()
	return StartTarget(t, "ip", append([]string{"netns", "exec", ns.Name, path}, args...)...)
}

// Do calls f on a thread that is in the namespace: sockets that f itself makes are
// there. f must not start goroutines that make some.
func (ns NetNS) Do(f func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := ns.enter(f); err != nil {
		return fmt.Errorf("in network namespace %s: %w", ns.Name, err)
	}
	return nil
}

// enter returns to where it came from: a thread that ended here would take the
// processes that it started with it (Pdeathsig).
func (ns NetNS) enter(f func() error) error {
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	defer home.Close()
	there, err := os.Open("/run/netns/" + ns.Name)
	if err != nil {
		return err
	}
	defer there.Close()
	if err := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter: %w", err)
	}
	err = f()
	if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back != nil {
		panic(fmt.Sprintf("cannot leave network namespace %s: %v", ns.Name, back))
	}
	return err
}

func run(t testing.TB, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}
