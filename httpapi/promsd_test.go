package httpapi_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/pacelinehq/paceline/fsm"
	"github.com/pacelinehq/paceline/httpapi/httpapitest"
)

type targets []struct {
	Targets []string
	Labels  map[string]string
}

func TestPrometheusTargets(t *testing.T) {
	a := newAPI(t)
	secondGroup(a)
	all := want[targets](t, a.do("GET", "/v1/discovery/prometheus", ""), 200)
	if len(all) != 2 || all[0].Targets[0] != "[2001:db8::1]:8080" || all[1].Targets[0] != "127.0.0.1:20001" {
		t.Fatalf("targets %+v", all)
	}
	for name, v := range map[string]string{
		"group": "api", "zone": "a", "instance": httpapitest.InstanceID(9), "__meta_paceline_group": "api", "__meta_paceline_node": "n1",
		"__meta_paceline_health": "healthy", "__meta_paceline_draining": "false", "__meta_paceline_label_tier": "front",
	} {
		if all[0].Labels[name] != v {
			t.Errorf("label %s is %q", name, all[0].Labels[name])
		}
	}
	// What is unhealthy is scraped as well; what is not there is no error.
	a.cluster.Report(httpapitest.InstanceID(1), "", fsm.Unhealthy)
	web := want[targets](t, a.do("GET", "/v1/discovery/prometheus?service=web", ""), 200)
	if len(web) != 1 || web[0].Labels["__meta_paceline_health"] != "unhealthy" {
		t.Errorf("targets %+v", web)
	}
	if none := a.do("GET", "/v1/discovery/prometheus?service=none", ""); none.Code != 200 || none.Body.String() != "[]\n" {
		t.Errorf("no service: %d %s", none.Code, none.Body)
	}
}

// Of two labels that Prometheus could not tell apart it is always the same one.
func TestPrometheusLabelsCollide(t *testing.T) {
	a := newAPI(t)
	g, _ := a.cluster.State().Groups.Get("web")
	changed := *g
	changed.Labels = map[string]string{"a.b": "dot", "a-b": "dash", "a_b": "score"}
	a.cluster.Must(fsm.PutGroup{Group: changed})
	for range 30 {
		if all := want[targets](t, a.do("GET", "/v1/discovery/prometheus", ""), 200); all[0].Labels["__meta_paceline_label_a_b"] != "score" {
			t.Fatalf("labels %v", all[0].Labels)
		}
	}
}

// Prometheus itself discovers and scrapes an instance.
func TestRealPrometheus(t *testing.T) {
	bin, err := exec.LookPath("prometheus")
	if err != nil || testing.Short() {
		t.Skip("prometheus is not installed, or -short")
	}
	a := newAPI(t)
	_, url := live(t, a)
	// The API serves /metrics: it stands in for an instance.
	endpoint(a, httpapitest.InstanceID(2), url[len("http://"):], fsm.Healthy)
	a.cluster.Report(httpapitest.InstanceID(1), fsm.Draining, "")
	a.cluster.Report(httpapitest.InstanceID(1), fsm.Stopping, "")
	dir := t.TempDir()
	config := fmt.Sprintf(`
global: {scrape_interval: 1s}
scrape_configs:
  - job_name: paceline
    http_sd_configs: [{url: "%s/v1/discovery/prometheus", refresh_interval: 1s}]
    relabel_configs: [{source_labels: [__meta_paceline_node], target_label: node}]
`, url)
	file := filepath.Join(dir, "prometheus.yml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	_ = l.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cmd := exec.CommandContext(ctx, bin, "--config.file="+file, "--storage.tsdb.path="+dir, "--web.listen-address="+address)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cancel(); _ = cmd.Wait() })
	transport := &http.Transport{DisableKeepAlives: true}
	var up map[string]string // labels of what was scraped
	await(t, "scraped targets", func() bool {
		resp, err := (&http.Client{Transport: transport}).Get("http://" + address + "/api/v1/targets")
		if err != nil {
			return false
		}
		defer func() { _ = resp.Body.Close() }()
		var body struct {
			Data struct {
				ActiveTargets []struct {
					Labels map[string]string
					Health string
				}
			}
		}
		if json.NewDecoder(resp.Body).Decode(&body) != nil {
			return false
		}
		for _, target := range body.Data.ActiveTargets {
			if target.Health == "up" {
				up = target.Labels
			}
		}
		return up != nil
	})
	if up["group"] != "web" || up["node"] != "n1" || up["zone"] != "a" || up["instance"] != httpapitest.InstanceID(2) {
		t.Errorf("labels %v", up)
	}
}
