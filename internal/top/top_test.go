package top_test

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/pacelinehq/paceline/fsm"
	"github.com/pacelinehq/paceline/internal/top"
)

// counters is a node's metrics: 2xx, 5xx and unanswered requests of web.
func counters(ok, failed, none int) string {
	return fmt.Sprintf(`# TYPE paceline_proxy_requests_total counter
paceline_proxy_requests_total{group="web",code="2xx"} %d
paceline_proxy_requests_total{group="web",code="5xx"} %d
paceline_proxy_requests_total{group="web",code="none"} %d
`, ok, failed, none)
}

// histogram is web's latency: counts up to 10 ms, 100 ms, and beyond.
func histogram(fast, slow, beyond int) string {
	return fmt.Sprintf(`# TYPE paceline_proxy_request_seconds histogram
paceline_proxy_request_seconds_bucket{group="web",le="0.01"} %d
paceline_proxy_request_seconds_bucket{group="web",le="0.1"} %d
paceline_proxy_request_seconds_bucket{group="web",le="+Inf"} %d
paceline_proxy_request_seconds_sum{group="web"} 1
paceline_proxy_request_seconds_count{group="web"} %d
`, fast, fast+slow, fast+slow+beyond, fast+slow+beyond)
}

const instances = `# TYPE paceline_proxy_instance_requests_total counter
paceline_proxy_instance_requests_total{group="web",instance="a",code="2xx"} 40
paceline_proxy_instance_requests_total{group="web",instance="gone",code="5xx"} 2
# TYPE paceline_proxy_instance_failures_total counter
paceline_proxy_instance_failures_total{group="web",instance="a"} 6
# TYPE paceline_proxy_instance_requests_in_flight gauge
paceline_proxy_instance_requests_in_flight{group="web",instance="a"} 3
# TYPE paceline_proxy_instance_ejected gauge
paceline_proxy_instance_ejected{group="web",instance="a"} 1
paceline_proxy_instance_ejected{group="web",instance="b"} 0
# TYPE paceline_proxy_requests_in_flight gauge
paceline_proxy_requests_in_flight{group="web"} 4
# TYPE paceline_sessions gauge
paceline_sessions{group="web"} 12
# TYPE paceline_sessions_assigned_total counter
paceline_sessions_assigned_total{group="web"} 99
`

func TestRates(t *testing.T) {
	for _, c := range []struct {
		name                 string
		before, after        []string // by node; "-" does not answer
		requests, errors     float64
		first                float64 // requests of n1
		total, totalErrors   float64
		beforeIsNone, sameAt bool
	}{
		{name: "summed over nodes", before: []string{counters(100, 0, 0), counters(50, 5, 1)}, after: []string{counters(120, 2, 0), counters(70, 9, 3)},
			requests: 24, errors: 4, first: 11, total: 24, totalErrors: 4},
		{name: "restarted node counts what came since", before: []string{counters(9000, 10, 0)}, after: []string{counters(30, 0, 0)},
			requests: 15, errors: 0, first: 15, total: 15},
		{name: "one fallen counter restarts its set", before: []string{counters(10, 8, 0)}, after: []string{counters(60, 2, 0)},
			requests: 31, errors: 1, first: 31, total: 31, totalErrors: 1},
		{name: "new service", before: []string{""}, after: []string{counters(8, 0, 0)}, requests: 4, first: 4, total: 4},
		{name: "a node that is down has no part", before: []string{counters(1, 0, 0), counters(0, 0, 0)}, after: []string{"-", counters(6, 0, 0)},
			requests: 3, first: none, total: 3},
		{name: "a node that is back has no rate yet", before: []string{"-", counters(0, 0, 0)}, after: []string{counters(5000, 0, 0), counters(6, 0, 0)},
			requests: 3, first: none, total: 3},
		{name: "no reading before", beforeIsNone: true, after: []string{counters(5000, 9, 9)},
			requests: none, errors: none, first: none, total: none, totalErrors: none},
		{name: "no time between", sameAt: true, before: []string{counters(1, 0, 0)}, after: []string{counters(2, 0, 0)},
			requests: none, errors: none, first: none, total: none, totalErrors: none},
	} {
		t.Run(c.name, func(t *testing.T) {
			at := 2
			if c.sameAt {
				at = 0
			}
			var before *top.Reading
			if !c.beforeIsNone {
				before = reading(samples(t, 0, c.before)...)
			}
			tab := top.Compare(before, reading(samples(t, at, c.after)...))
			web := tab.Services[0]
			near(t, "requests", web.Requests, c.requests)
			near(t, "errors", web.Errors, c.errors)
			near(t, "requests of n1", tab.Nodes[0].Requests, c.first)
			near(t, "all requests", tab.Requests, c.total)
			near(t, "all errors", tab.Errors, c.totalErrors)
			if down := c.after[0] == "-"; tab.Nodes[0].Answers == down || (tab.Nodes[0].Problem != "") != down {
				t.Errorf("n1 is shown as %+v", tab.Nodes[0])
			}
		})
	}
}

func samples(t *testing.T, at int, texts []string) []*top.Sample {
	t.Helper()
	var out []*top.Sample
	for _, text := range texts {
		if text == "-" {
			out = append(out, nil)
		} else {
			out = append(out, parse(t, at, text))
		}
	}
	return out
}

func TestQuantiles(t *testing.T) {
	for _, c := range []struct {
		name          string
		before, after []string
		p50, p99      float64
	}{
		{"linear within a bucket", []string{histogram(0, 0, 0)}, []string{histogram(100, 0, 0)}, 5, 9.9},
		{"merged over nodes", []string{histogram(0, 0, 0), histogram(7, 7, 7)}, []string{histogram(50, 0, 0), histogram(7, 57, 7)}, 10, 98.2},
		{"only what is new", []string{histogram(1000, 0, 0)}, []string{histogram(1000, 10, 0)}, 55, 99.1},
		{"beyond the last bound", []string{histogram(0, 0, 0)}, []string{histogram(0, 0, 5)}, 100, 100},
		{"restarted", []string{histogram(1000, 50, 0)}, []string{histogram(10, 60, 0)}, 47.5, 98.95},
		{"nothing happened", []string{histogram(5, 5, 5)}, []string{histogram(5, 5, 5)}, none, none},
	} {
		t.Run(c.name, func(t *testing.T) {
			tab := top.Compare(reading(samples(t, 0, c.before)...), reading(samples(t, 1, c.after)...))
			near(t, "p50", tab.Services[0].P50, c.p50)
			near(t, "p99", tab.Services[0].P99, c.p99)
		})
	}
}

func TestInstances(t *testing.T) {
	before := reading(parse(t, 0, counters(0, 0, 0)), parse(t, 0, ""))
	after := reading(parse(t, 2, counters(0, 0, 0)+instances), parse(t, 2, instances))
	tab := top.Compare(before, after)
	if len(tab.Services) != 1 || tab.Services[0].Group != "web" {
		t.Fatalf("services %+v; batch has none", tab.Services)
	}
	web := tab.Services[0]
	if web.Desired != 2 || web.Healthy != 1 || web.InFlight != 8 || web.Gone {
		t.Errorf("web is %+v", web)
	}
	if web.Sessions == nil || *web.Sessions != 12 {
		t.Errorf("sessions %v; each node tells the same ones, of which there are 12", web.Sessions)
	}
	near(t, "failures of web", web.Failures, 6)
	var ids []string
	for _, i := range web.Instances {
		ids = append(ids, i.ID)
	}
	if strings.Join(ids, " ") != "a b gone" {
		t.Fatalf("instances %v; z has ended and does nothing", ids)
	}
	a, b, gone := web.Instances[0], web.Instances[1], web.Instances[2]
	if a.Node != "n1" || a.Ejected != 2 || a.Seen != 2 || a.InFlight != 6 {
		t.Errorf("a is %+v", a)
	}
	near(t, "requests of a", a.Requests, 40)
	near(t, "failures of a", a.Failures, 6)
	if b.State != "draining" || b.Ejected != 0 || b.Seen != 2 {
		t.Errorf("b is %+v", b)
	}
	if gone.State != "" {
		t.Errorf("gone is %+v", gone)
	}
	near(t, "errors of gone", gone.Errors, 2)
}

// What is read once for an instance begins anew with it, and nodes that are
// behind tell fewer sessions.
func TestRestartedInstance(t *testing.T) {
	text := func(failures, sessions int) string {
		return fmt.Sprintf("paceline_proxy_instance_failures_total{group=\"web\",instance=\"a\"} %d\npaceline_sessions{group=\"web\"} %d\n", failures, sessions)
	}
	tab := top.Compare(reading(parse(t, 0, text(900, 1)), parse(t, 0, text(3, 1))), reading(parse(t, 1, text(4, 30)), parse(t, 1, text(5, 20))))
	near(t, "failures", tab.Services[0].Failures, 6)
	if n := tab.Services[0].Sessions; n == nil || *n != 30 {
		t.Errorf("sessions %v", n)
	}
}

// A service whose group was deleted while it still answers stays in sight.
func TestGroupThatIsGone(t *testing.T) {
	r := reading(parse(t, 0, counters(1, 0, 0)))
	r.Groups = nil
	if tab := top.Compare(nil, r); len(tab.Services) != 1 || !tab.Services[0].Gone {
		t.Errorf("services %+v", tab.Services)
	}
}

func TestParseRefuses(t *testing.T) {
	for _, bad := range []string{
		"paceline_proxy_requests_total{group=\"web\" 1\n",
		"paceline_proxy_requests_total{group=\"web\"} many\n",
		strings.Repeat("x", 2<<20),
	} {
		if s, err := top.Parse(strings.NewReader(bad), began); err == nil {
			t.Errorf("%.40q was read as %+v", bad, s)
		}
	}
	for _, odd := range []string{"NaN", "-5", "+Inf"} {
		s := parse(t, 0, `paceline_proxy_requests_total{group="web",code="2xx"} `+odd+"\nsomething {else\n")
		if got := s.Services["web"].Codes["2xx"]; got != 0 {
			t.Errorf("%s was read as %v", odd, got)
		}
	}
}

// Whatever counters do, a rate is never negative, and never more than what a
// counter shows.
func TestRatesAreSane(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		n := rapid.IntRange(0, 1000)
		text := func(label string) (string, float64) {
			a, b, c := n.Draw(rt, label+"2xx"), n.Draw(rt, label+"5xx"), n.Draw(rt, label+"none")
			return counters(a, b, c) + histogram(a, b, c), float64(a + b + c)
		}
		was, _ := text("before")
		now, most := text("after")
		tab := top.Compare(reading(parse(t, 0, was)), reading(parse(t, 1, now)))
		web := tab.Services[0]
		if *web.Requests < 0 || *web.Requests > most || *web.Errors < 0 || *web.Errors > *web.Requests {
			rt.Fatalf("%v requests/s, %v errors/s of at most %v", *web.Requests, *web.Errors, most)
		}
		if web.P50 != nil && (*web.P50 < 0 || *web.P50 > *web.P99 || *web.P99 > 100 || math.IsNaN(*web.P50)) {
			rt.Fatalf("p50 %v, p99 %v", *web.P50, *web.P99)
		}
	})
}

// TestInstanceLatency: an instance has the times that all nodes saw together.
func TestInstanceLatency(t *testing.T) {
	text := func(quick, slow int) string {
		return fmt.Sprintf(`# TYPE paceline_proxy_instance_request_seconds histogram
paceline_proxy_instance_request_seconds_bucket{group="web",instance="i1",le="0.01"} %d
paceline_proxy_instance_request_seconds_bucket{group="web",instance="i1",le="0.1"} %d
paceline_proxy_instance_request_seconds_bucket{group="web",instance="i1",le="+Inf"} %d
paceline_proxy_instance_request_seconds_sum{group="web",instance="i1"} 1
paceline_proxy_instance_request_seconds_count{group="web",instance="i1"} %d
`, quick, quick+slow, quick+slow, quick+slow)
	}
	at := time.Unix(1000, 0)
	node := func(name, text string, at time.Time) top.NodeReading {
		s, err := top.Parse(strings.NewReader(text), at)
		if err != nil {
			t.Fatal(err)
		}
		return top.NodeReading{Name: name, Sample: s}
	}
	before := &top.Reading{At: at, Nodes: []top.NodeReading{node("n1", text(1000, 0), at), node("n2", text(0, 0), at)}}
	after := &top.Reading{
		At: at.Add(time.Second), Groups: []fsm.Group{{Name: "web"}},
		Nodes: []top.NodeReading{node("n1", text(1100, 0), at.Add(time.Second)), node("n2", text(0, 100), at.Add(time.Second))},
	}
	i := top.Compare(before, after).Services[0].Instances[0]
	near(t, "p50", i.P50, 10)
	near(t, "p99", i.P99, 98.2)
}

func TestSelect(t *testing.T) {
	r, e, p := 5.0, 7.0, 3.0
	tab := &top.Table{Services: []top.Service{
		{Group: "api", Traffic: top.Traffic{Requests: &p, Errors: &p}, Instances: []top.Instance{{ID: "1", Node: "n1"}, {ID: "2", Node: "n2", Traffic: top.Traffic{Requests: &r, InFlight: 2}}}},
		{Group: "shop", Traffic: top.Traffic{Requests: &r, Errors: &e, InFlight: 4, P99: &p}, Instances: []top.Instance{{ID: "3", Node: "n1"}}},
		{Group: "web", Traffic: top.Traffic{Requests: &e, Errors: &p, InFlight: 1, P50: &e, P99: &r}},
	}}
	show := func(text string, by top.Order) string {
		var out []string
		for _, s := range tab.Select(text, by).Services {
			name := s.Group
			for _, i := range s.Instances {
				name += " " + i.ID
			}
			out = append(out, name)
		}
		return strings.Join(out, ", ")
	}
	for _, c := range []struct {
		text string
		by   top.Order
		want string
	}{
		{"", top.ByName, "api 1 2, shop 3, web"},
		{"", top.ByRequests, "web, shop 3, api 2 1"},
		{"", top.ByErrors, "shop 3, api 1 2, web"},
		{"", top.ByInFlight, "shop 3, web, api 2 1"},
		{"", top.ByP50, "web, api 1 2, shop 3"},
		{"", top.ByP99, "web, shop 3, api 1 2"},
		{"n1", top.ByName, "api 1, shop 3"},
		{"api", top.ByName, "api 1 2"},
		{"nothing", top.ByName, ""},
	} {
		if got := show(c.text, c.by); got != c.want {
			t.Errorf("%q by %s: %s, want %s", c.text, c.by, got, c.want)
		}
	}
	if len(tab.Services[0].Instances) != 2 || tab.Services[0].Instances[0].ID != "1" {
		t.Error("the table itself was changed")
	}
	if !slices.Contains(top.Orders(), top.BySessions) {
		t.Error("sessions are no order")
	}
}
