package routing_test

import (
	"iter"
	"maps"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/pacelinehq/paceline/fsm"
	"github.com/pacelinehq/paceline/routing"
)

// routes indexes services in the order of their groups' names.
func routes(services map[string]*fsm.Service) *routing.Routes {
	return routing.NewRoutes(groups(services))
}

func groups(services map[string]*fsm.Service) iter.Seq2[string, *fsm.Group] {
	return func(yield func(string, *fsm.Group) bool) {
		for _, name := range slices.Sorted(maps.Keys(services)) {
			if !yield(name, &fsm.Group{Name: name, Service: services[name]}) {
				return
			}
		}
	}
}

func TestRoutes(t *testing.T) {
	own := []fsm.Listener{{Port: 8080}}
	r := routes(map[string]*fsm.Service{
		"nothing":  nil,
		"any":      {},
		"any-shop": {PathPrefix: "/shop"},
		"exact":    {Hosts: []string{"a.test", "b.test"}},
		"deep":     {Hosts: []string{"a.test"}, PathPrefix: "/shop/cart/"},
		"shallow":  {Hosts: []string{"a.test"}, PathPrefix: "/shop"},
		"wild":     {Hosts: []string{"*.a.test"}},
		"own":      {Listeners: own, Hosts: []string{"a.test"}, PathPrefix: "/own"},
		"both":     {Listeners: []fsm.Listener{{}, {Port: 8081}}, Hosts: []string{"both.test"}},
		"tcp":      {Listeners: []fsm.Listener{{Port: 5432, Protocol: fsm.ProtocolTCP}}},
	})
	for _, tt := range []struct {
		port             int
		host, path, want string
	}{
		{0, "a.test", "/", "exact"},
		{0, "b.test", "/x", "exact"},
		{0, "A.TEST", "/", "exact"},
		{0, "a.test.", "/", "exact"},
		{0, "a.test:8000", "/", "exact"},
		{0, "a.test.:8000", "/", "exact"},
		{0, "a.test", "/shop", "shallow"},
		{0, "a.test", "/shop/", "shallow"},
		{0, "a.test", "/shop/cart", "deep"},
		{0, "a.test", "/shop/cart/1", "deep"},
		{0, "a.test", "/shop/carts", "shallow"},
		{0, "a.test", "/shopping", "exact"},
		{0, "a.test", "/SHOP", "exact"},
		{0, "a.test", "", "exact"},
		{0, "x.a.test", "/", "wild"},
		{0, "x.a.test", "/shop", "wild"},
		{0, "x.y.a.test", "/", "any"},
		{0, ".a.test", "/", "any"},
		{0, "c.test", "/", "any"},
		{0, "c.test", "/shop/x", "any-shop"},
		{0, "", "/", "any"},
		{0, "[::1]:80", "/", "any"},
		{0, strings.Repeat("a", 300) + ".a.test", "/", "any"},
		{0, "both.test", "/", "both"},
		{8081, "both.test", "/", "both"},
		{8080, "a.test", "/own/x", "own"},
		{8080, "a.test", "/", ""},
		{8080, "b.test", "/own", ""},
		{8081, "c.test", "/", ""},
		{5432, "a.test", "/", ""},
		{9999, "a.test", "/", ""},
	} {
		got, ok := r.HTTP(tt.port, []byte(tt.host), []byte(tt.path))
		if got != tt.want || ok != (tt.want != "") {
			t.Errorf("port %d, %q %q is for %q (%v), want %q", tt.port, tt.host, tt.path, got, ok, tt.want)
		}
	}
	if g, ok := r.TCP(5432); g != "tcp" || !ok {
		t.Errorf("the tcp port is for %q", g)
	}
	for _, port := range []int{0, 8080, 1} {
		if g, ok := r.TCP(port); ok {
			t.Errorf("port %d is a tcp port for %q", port, g)
		}
	}
	want := []fsm.Listener{{Port: 5432, Protocol: "tcp"}, {Port: 8080, Protocol: "http"}, {Port: 8081, Protocol: "http"}}
	if got := r.Ports(); !slices.Equal(got, want) {
		t.Errorf("ports %v, want %v", got, want)
	}
}

// The first group by name has what two groups want, so that all nodes agree.
func TestRoutesThatOverlap(t *testing.T) {
	tcp := &fsm.Service{Listeners: []fsm.Listener{{Port: 1, Protocol: fsm.ProtocolTCP}}}
	r := routes(map[string]*fsm.Service{
		"b": {Hosts: []string{"x.test"}}, "a": {Hosts: []string{"x.test"}}, "d": tcp, "c": tcp,
	})
	if g, _ := r.HTTP(0, []byte("x.test"), []byte("/")); g != "a" {
		t.Errorf("the host is for %q", g)
	}
	if g, _ := r.TCP(1); g != "c" {
		t.Errorf("the port is for %q", g)
	}
}

// reference finds a group in the plainest way: it looks at every service and
// keeps the best.
func reference(services map[string]*fsm.Service, port int, host, path string) string {
	if !strings.HasPrefix(host, "[") {
		host, _, _ = strings.Cut(host, ":")
	}
	host = lower(strings.TrimSuffix(host, "."))
	best, rank := "", -1
	for _, name := range slices.Sorted(maps.Keys(services)) {
		s := services[name]
		if !slices.ContainsFunc(s.Listeners, func(l fsm.Listener) bool { return l.Port == port }) && (port != 0 || len(s.Listeners) > 0) {
			continue
		}
		prefix := strings.TrimRight(s.PathPrefix, "/")
		if path != prefix && !strings.HasPrefix(path, prefix+"/") && prefix != "" {
			continue
		}
		level := 0
		if len(s.Hosts) > 0 {
			level = -1
		}
		for _, h := range s.Hosts {
			suffix, wild := strings.CutPrefix(h, "*")
			label, found := strings.CutSuffix(host, suffix)
			switch {
			case h == host:
				level = max(level, 2)
			case wild && found && label != "" && !strings.Contains(label, "."):
				level = max(level, 1)
			}
		}
		if level < 0 || len(host) > 255 && level > 0 {
			continue
		}
		if r := level<<20 + len(prefix); r > rank {
			best, rank = name, r
		}
	}
	return best
}

func lower(s string) string {
	return strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, s)
}

func drawServices(t *rapid.T) map[string]*fsm.Service {
	hosts := rapid.SampledFrom([]string{"a", "b", "a.b", "*.b", "*.a.b", "c.a.b", "*.c.a.b"})
	paths := rapid.SampledFrom([]string{"", "/", "/a", "/a/", "/a/b", "/ab", "/a/b/c"})
	services := map[string]*fsm.Service{}
	for k := range rapid.IntRange(0, 8).Draw(t, "services") {
		s := &fsm.Service{
			Hosts: rapid.SliceOfN(hosts, 0, 3).Draw(t, "hosts"), PathPrefix: paths.Draw(t, "prefix"),
		}
		for _, port := range rapid.SliceOfNDistinct(rapid.SampledFrom([]int{0, 80}), 0, 2, rapid.ID).Draw(t, "ports") {
			s.Listeners = append(s.Listeners, fsm.Listener{Port: port})
		}
		services[string(rune('a'+k))] = s
	}
	return services
}

// The index finds what the plainest search does.
func TestRoutesFindTheBest(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		services := drawServices(t)
		r := routes(services)
		for range 20 {
			host := rapid.StringMatching(`[abcAB.]{0,7}(:80)?`).Draw(t, "host")
			path := rapid.StringMatching(`(/[ab]{0,2}){0,4}`).Draw(t, "path")
			port := rapid.SampledFrom([]int{0, 80, 81}).Draw(t, "port")
			got, _ := r.HTTP(port, []byte(host), []byte(path))
			if want := reference(services, port, host, path); got != want {
				t.Fatalf("%q %q on %d is for %q, want %q", host, path, port, got, want)
			}
		}
	})
}

// FuzzRoutes asks for any host and path. A service is written as
// "hosts prefix", one a line.
func FuzzRoutes(f *testing.F) {
	f.Add("a.test,*.b.test /shop\n /\n*.c.test /a/b", "x.b.test:80", "/shop/1")
	f.Add("a /\na /a\n* /", "A.", "/a/")
	f.Add("[::1] /\n", "[::1]:80", "")
	f.Add("", "\xff..", "//a")
	f.Fuzz(func(t *testing.T, text, host, path string) {
		services := map[string]*fsm.Service{}
		for line := range strings.Lines(text) {
			names, prefix, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
			s := &fsm.Service{PathPrefix: prefix}
			for h := range strings.SplitSeq(names, ",") {
				// The state takes only names in lower case, or "*." and one.
				name := strings.TrimPrefix(h, "*.")
				if name != "" && !strings.ContainsAny(name, "*:[]") && !strings.HasPrefix(name, ".") && !strings.HasSuffix(name, ".") && lower(h) == h && len(h) <= 253 {
					s.Hosts = append(s.Hosts, h)
				}
			}
			if len(services) < 20 {
				services[string(rune('a'+len(services)))] = s
			}
		}
		got, ok := routes(services).HTTP(routing.Shared, []byte(host), []byte(path))
		if want := reference(services, routing.Shared, host, path); got != want || ok != (want != "") {
			t.Errorf("%q %q is for %q, want %q", host, path, got, want)
		}
	})
}

// BenchmarkRoutes finds one of 1000 services, and allocates nothing.
func BenchmarkRoutes(b *testing.B) {
	services := map[string]*fsm.Service{}
	for k := range 1000 {
		name := "g" + strings.Repeat("x", k%7) + string(rune('a'+k%26)) + string(rune('a'+k/26))
		services[name] = &fsm.Service{Hosts: []string{name + ".example.test"}, PathPrefix: "/v1"}
	}
	r := routes(services)
	host, path := []byte("Gaa.example.test:8080"), []byte("/v1/items/5")
	b.ReportAllocs()
	for b.Loop() {
		if g, _ := r.HTTP(routing.Shared, host, path); g != "gaa" {
			b.Fatal(g)
		}
	}
}
