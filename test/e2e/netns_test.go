package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/tracer-agent/tracer-agent/test/e2e/harness"
)

// getIn sends a request from inside a network namespace.
func getIn(t *testing.T, ns harness.NetNS, target string) string {
	t.Helper()
	client := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(_ context.Context, network, addr string) (c net.Conn, err error) {
			err = ns.Do(func() error { c, err = net.DialTimeout(network, addr, 10*time.Second); return err })
			return c, err
		},
	}}
	resp, err := client.Get(target)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s: %s, %v", target, resp.Status, body, err)
	}
	return string(body)
}

// port is the port of host:port.
func port(t *testing.T, addr string) string {
	t.Helper()
	_, p, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// netfilter loads rules for nft(8) in a namespace.
func netfilter(t *testing.T, ns harness.NetNS, rules string) {
	t.Helper()
	ns.Run(t, "nft", rules)
}

// TestNamespaces: a client and a server in network namespaces of their own are joined,
// directly over veth and where the addresses are translated in between, as those of a
// Kubernetes service are; where the client's port is, too, they are not.
func TestNamespaces(t *testing.T) {
	needs(t)
	const service = "10.96.0.1"
	near, router, far := harness.NewNetNS(t), harness.NewNetNS(t), harness.NewNetNS(t)
	harness.Veth(t, near, "10.77.0.1/24", router, "10.77.0.2/24")
	harness.Veth(t, router, "10.78.0.1/24", far, "10.78.0.2/24")
	near.IP(t, "route", "add", "default", "via", "10.77.0.2")
	far.IP(t, "route", "add", "default", "via", "10.78.0.1")
	router.Run(t, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
	exe := harness.Build{Dir: relay}.Path(t)
	a, b := near.Start(t, exe, "-addr", "10.77.0.1:0"), far.Start(t, exe, "-addr", "10.78.0.2:0")
	fence := harness.StartTarget(t, exe)
	agent := joining(t, nil, a, b, fence)
	const n = 10
	run := func(t *testing.T, to func(kind string) string, want int) {
		for _, kind := range kinds {
			mark := agent.Mark()
			q := url.Values{"next": {to(kind)}, "n": {fmt.Sprint(n)}}
			getIn(t, near, a.URL("/hop/ns-"+kind+"?"+q.Encode()))
			agent.Await(mark, 1+2*n)
			spans := harness.Of(agent.Settle(mark, 0, fence), func(s harness.Span) bool { return idOf(s) != "" })
			if joined := checkJoins(t, spans, b); joined != want || len(spans) != 1+2*n {
				t.Errorf("%s: %d of %d requests are joined, %d spans, want %d and %d", kind, joined, n, len(spans), want, 1+2*n)
			}
		}
	}
	translated := func(kind string) string {
		return kind + "," + net.JoinHostPort(service, port(t, at(kind, b)))
	}
	t.Run("veth", func(t *testing.T) { run(t, func(kind string) string { return at(kind, b) }, n) })
	for _, c := range []struct {
		name, rules string
		ns          harness.NetNS
		want        int
	}{
		{"the server's address, at the client", `add table ip t
			add chain ip t out { type nat hook output priority -100; }
			add rule ip t out ip daddr 10.96.0.1 dnat to 10.78.0.2`, near, n},
		{"both addresses, at a router", `add table ip t
			add chain ip t pre { type nat hook prerouting priority -100; }
			add chain ip t post { type nat hook postrouting priority 100; }
			add rule ip t pre ip daddr 10.96.0.1 dnat to 10.78.0.2
			add rule ip t post masquerade`, router, n},
		{"the client's port, too", `add table ip t
			add chain ip t pre { type nat hook prerouting priority -100; }
			add chain ip t post { type nat hook postrouting priority 100; }
			add rule ip t pre ip daddr 10.96.0.1 dnat to 10.78.0.2
			add rule ip t post ip protocol tcp masquerade to :1024-1999`, router, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			netfilter(t, c.ns, c.rules)
			defer c.ns.Run(t, "nft", "delete table ip t")
			run(t, translated, c.want)
			// The next case must not go over this one's connections.
			getIn(t, near, a.URL("/close-idle"))
		})
	}
}

// TestSameAddresses: two pairs of namespaces have the same addresses and ports at the same
// time. The client of one is watched, and the server of the other.
func TestSameAddresses(t *testing.T) {
	needs(t)
	const client, server = "10.79.0.1", "10.79.0.2:8080"
	var near, far [2]harness.NetNS
	for i := range 2 {
		near[i], far[i] = harness.NewNetNS(t), harness.NewNetNS(t)
		harness.Veth(t, near[i], client+"/24", far[i], "10.79.0.2/24")
	}
	exe := harness.Build{Dir: relay}.Path(t)
	a := near[0].Start(t, exe, "-addr", client+":0")
	far[0].Start(t, exe, "-addr", server) // not watched
	b := far[1].Start(t, exe, "-addr", server)
	fence := harness.StartTarget(t, exe)
	agent := joining(t, nil, a, b, fence)
	const rounds = 60
	mark := agent.Mark()
	for i := range rounds {
		local := fmt.Sprintf("%s:%d", client, 23000+i)
		q := url.Values{"next": {"h1," + server}, "from": {local}}
		getIn(t, near[0], a.URL(fmt.Sprintf("/hop/call-%d?%s", i, q.Encode())))
		err := near[1].Do(func() error { return getFrom(local, server, fmt.Sprintf("/hop/stranger-%d", i)) })
		if err != nil {
			t.Fatal(err)
		}
	}
	agent.Await(mark, 3*rounds)
	spans := agent.Settle(mark, 0, fence)
	if joined := checkJoins(t, spans, b); joined != 0 || len(spans) != 3*rounds {
		t.Errorf("%d of %d requests of strangers are joined, %d spans, want 0 and %d", joined, rounds, len(spans), 3*rounds)
	}
}
