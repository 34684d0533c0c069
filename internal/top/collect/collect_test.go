package collect_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/pacelinehq/paceline/client"
	"github.com/pacelinehq/paceline/fsm"
	"github.com/pacelinehq/paceline/internal/top"
	"github.com/pacelinehq/paceline/internal/top/collect"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fleet is a network of nodes, by the host that they answer at.
type fleet struct {
	mu    sync.Mutex
	hosts map[string]string // host to what it is: a node's name, "hangs" or "refuses"
	asked map[string]int    // host and path
	nodes []fsm.Node
}

func newFleet(names ...string) *fleet {
	f := &fleet{hosts: map[string]string{}, asked: map[string]int{}}
	for _, name := range names {
		f.nodes = append(f.nodes, fsm.Node{Name: name, API: name + ":7700", State: "ready"})
		f.hosts[name+":7700"] = name
	}
	return f
}

func (f *fleet) set(host, what string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hosts[host] = what
}

// RoundTrip implements [http.RoundTripper].
func (f *fleet) RoundTrip(r *http.Request) (*http.Response, error) {
	f.mu.Lock()
	what := f.hosts[r.URL.Host]
	f.asked[r.URL.Host+r.URL.Path]++
	f.mu.Unlock()
	switch what {
	case "hangs":
		<-r.Context().Done()
		return nil, r.Context().Err()
	case "refuses", "":
		return nil, errors.New("connection refused")
	}
	body := ""
	switch r.URL.Path {
	case "/metrics":
		body = "paceline_proxy_requests_total{group=\"web\",code=\"2xx\"} 7\n"
	case "/v1/cluster":
		body = `{"leader":"n1"}`
	case "/v1/nodes":
		raw, _ := json.Marshal(client.List[fsm.Node]{Items: f.nodes})
		body = string(raw)
	case "/v1/groups":
		body = `{"items":[{"name":"web","desired":2,"service":{}}]}`
	case "/v1/instances":
		if r.URL.Query().Get("cursor") == "" {
			body = `{"items":[{"id":"a","group":"web"}],"next":"more"}`
		} else {
			body = `{"items":[{"id":"b","group":"web"}]}`
		}
	}
	return &http.Response{
		StatusCode: http.StatusOK, Body: io.NopCloser(strings.NewReader(body)), Request: r,
		Header: http.Header{client.HeaderServedBy: {what}},
	}, nil
}

func (f *fleet) collector(endpoints ...string) *collect.Collector {
	return collect.New(collect.Config{
		Endpoints: endpoints, Within: 3 * time.Second, Now: time.Now,
		Connect: func(endpoint string) (*client.Client, error) {
			return client.New(client.Config{Endpoints: []string{endpoint}, HTTP: &http.Client{Transport: f}})
		},
	})
}

// show tells a reading's nodes in a line.
func show(r *top.Reading) string {
	var out []string
	for _, n := range r.Nodes {
		if n.Sample != nil {
			out = append(out, fmt.Sprintf("%s %v", n.Name, n.Sample.Services["web"].Codes["2xx"]))
		} else {
			out = append(out, n.Name+" silent: "+n.Problem)
		}
	}
	return strings.Join(out, ", ")
}

func read(t *testing.T, k *collect.Collector) *top.Reading {
	t.Helper()
	r, err := k.Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestReading(t *testing.T) {
	f := newFleet("n1", "n2", "n3")
	k := f.collector("http://n2:7700")
	defer k.Close()
	r := read(t, k)
	if got := show(r); got != "n1 7, n2 7, n3 7" {
		t.Error(got)
	}
	if r.Leader != "n1" || len(r.Groups) != 1 || len(r.Instances) != 2 || r.Problem != "" || r.Nodes[0].State != "ready" {
		t.Errorf("reading %+v", r)
	}
	if n := f.asked["n2:7700/metrics"]; n != 1 {
		t.Errorf("n2 was asked for its metrics %d times", n)
	}
}

// A node that hangs costs the time of one part of a reading, once for each,
// and the others are shown.
func TestSilentNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet("n1", "n2", "n3")
		k := f.collector("http://n1:7700")
		defer k.Close()
		read(t, k)
		f.set("n1:7700", "hangs")
		f.set("n3:7700", "refuses")
		from := time.Now()
		r := read(t, k)
		if took := time.Since(from); took > 6*time.Second {
			t.Errorf("the reading took %s", took)
		}
		if got := show(r); !strings.HasPrefix(got, "n1 silent: ") || !strings.Contains(got, "n2 7, n3 silent: can not reach n3:7700") {
			t.Error(got)
		}
		if r.Problem != "" || len(r.Groups) != 1 {
			t.Errorf("n2 was not asked for the rest: %q", r.Problem)
		}
		// From then on n2 is asked at once.
		from = time.Now()
		read(t, k)
		if took := time.Since(from); took > 3*time.Second {
			t.Errorf("the next reading took %s", took)
		}
	})
}

func TestNobodyAnswers(t *testing.T) {
	f := newFleet("n1", "n2")
	k := f.collector("http://n1:7700")
	defer k.Close()
	f.set("n1:7700", "refuses")
	if r, err := k.Read(t.Context()); client.CodeOf(err) != client.CodeUnreachable {
		t.Fatalf("%v, %v", r, err)
	}
	f.set("n1:7700", "n1")
	read(t, k)
	f.set("n1:7700", "refuses")
	f.set("n2:7700", "refuses")
	r := read(t, k)
	if len(r.Groups) != 1 || !strings.Contains(r.Problem, "earlier time") || !strings.Contains(show(r), "n2 silent") {
		t.Errorf("%s; %+v", show(r), r)
	}
}

// The addresses of nodes in containers may lead nowhere, or to another node.
func TestEndpointsOfTheUser(t *testing.T) {
	f := newFleet("n1", "n2", "n3")
	f.set("n1:7700", "refuses")
	f.set("n2:7700", "n1")
	f.set("outside:7700", "n1")
	k := f.collector("http://outside:7700")
	defer k.Close()
	const want = `n1 7, n2 silent: http://n2:7700 is the address of node "n1", n3 7`
	for range 3 {
		if got := show(read(t, k)); got != want {
			t.Error(got)
		}
	}
	if n := f.asked["n1:7700/metrics"]; n != 1 {
		t.Errorf("n1 was asked %d times at its own address, though it answers elsewhere", n)
	}
}

func TestReadEnds(t *testing.T) {
	f := newFleet("n1")
	f.set("n1:7700", "hangs")
	k := f.collector("http://n1:7700")
	defer k.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if r, err := k.Read(ctx); err == nil {
		t.Errorf("read %+v", r)
	}
}
