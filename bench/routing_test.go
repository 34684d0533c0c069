package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/valyala/fasthttp"
	"golang.org/x/sys/unix"
)

const wrkOutput = `Running 8s test @ http://127.0.0.1:8080/
  1 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.06ms    1.02ms  23.48ms   95.45%
    Req/Sec    67.70k     5.39k   78.31k    78.75%
  Latency Distribution
     50%  850.00us
     75%    1.09ms
     90%    1.50ms
     99%    3.60ms
  539456 requests in 8.01s, 133.76MB read
`

func TestParseWrk(t *testing.T) {
	r, err := parseWrk(wrkOutput + "Requests/sec:  67345.00\nTransfer/sec:     16.70MB\n")
	want := wrkResult{requests: 539456, window: 8010 * time.Millisecond, p50: 850 * time.Microsecond, p99: 3600 * time.Microsecond}
	if err != nil || *r != want {
		t.Errorf("%+v, %v; want %+v", r, err, want)
	}
	r, err = parseWrk(strings.NewReplacer("8.01s", "1.00m", "3.60ms", "1.20s").Replace(wrkOutput) +
		"  Socket errors: connect 1, read 20, write 300, timeout 4000\n  Non-2xx or 3xx responses: 50000\n")
	if err != nil || r.failed != 54321 || r.window != time.Minute || r.p99 != 1200*time.Millisecond {
		t.Errorf("%+v, %v", r, err)
	}
	for _, bad := range []string{"", "unable to connect", strings.ReplaceAll(wrkOutput, "99%", "98%")} {
		if _, err := parseWrk(bad); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
}

func TestParseProc(t *testing.T) {
	text := "4242 (a) (b c)) S 17 4242 4242 0 -1 4194560 1 2 3 4 250 150 9 9 20 0 5 0 1234 1 2"
	if st, err := parseStat(text); err != nil || st.parent != 17 || st.cpu != 4*time.Second {
		t.Errorf("%+v, %v; want parent 17 and 4s", st, err)
	}
	for _, bad := range []string{"", "1 (x) S 2", strings.Replace(text, "250", "x", 1), "no parenthesis 1 2 3 4 5 6 7 8 9 10 11 12 13 14"} {
		if _, err := parseStat(bad); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
	if d, err := parseSchedstat("1234567 890 12\n"); err != nil || d != 1234567 {
		t.Errorf("%v, %v", d, err)
	}
	for _, bad := range []string{"", "1 2", "x 1 2"} {
		if _, err := parseSchedstat(bad); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
}

func TestDivide(t *testing.T) {
	if _, ok := divide([]int{3}); ok {
		t.Error("one processor was divided")
	}
	l, ok := divide([]int{1, 2, 5})
	if !ok || !slices.Equal(l.proxy, []int{1}) || !slices.Equal(l.load, []int{2, 5}) {
		t.Errorf("%+v, %v", l, ok)
	}
}

// TestProcesses pins, measures and finds real processes.
func TestProcesses(t *testing.T) {
	p := &proc{
		binary: "/bin/sh", args: []string{"-c", "sleep 60 & while :; do :; done"}, log: filepath.Join(t.TempDir(), "log"),
		env: []string{"PACELINE_TEST_MARK=" + t.TempDir()},
	}
	if err := p.start(); err != nil {
		t.Fatal(err)
	}
	defer p.stop()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var pids []int
	if err := poll(ctx, time.Millisecond, func() bool {
		pids, _ = withChildren(p.cmd.Process.Pid)
		return len(pids) == 2
	}); err != nil {
		t.Fatalf("the shell's child was not found: %v", pids)
	}
	if err := poll(ctx, time.Millisecond, func() bool { return len(marked(p.env[0])) == 2 }); err != nil {
		t.Errorf("marked %v, want %v", marked(p.env[0]), pids)
	}
	defer func() { _ = unix.Kill(pids[1], unix.SIGKILL) }()
	cpus, err := allowedCPUs()
	if err != nil || len(cpus) == 0 {
		t.Fatal(cpus, err)
	}
	last := cpus[len(cpus)-1]
	if err := pin(pids, []int{last}); err != nil {
		t.Fatal(err)
	}
	for _, pid := range pids {
		var set unix.CPUSet
		if err := unix.SchedGetaffinity(pid, &set); err != nil || set.Count() != 1 || !set.IsSet(last) {
			t.Errorf("process %d may use %d processors, %v", pid, set.Count(), err)
		}
	}
	if err := poll(ctx, time.Millisecond, func() bool {
		d, err := cpuTime(pids)
		return err == nil && d > 20*time.Millisecond
	}); err != nil {
		t.Error("a busy process used no time")
	}
	if _, err := cpuTime([]int{-1}); err == nil {
		t.Error("a process that does not exist used time")
	}
}

func TestOrigin(t *testing.T) {
	o := newOrigin("20001")
	if len(o.body) != originBytes || !bytes.Contains(o.body, []byte("20001")) {
		t.Errorf("%d bytes: %s", len(o.body), o.body)
	}
	for path, want := range map[string][2]int{
		"/": {200, originBytes}, "/slow?ms=0": {200, originBytes}, "/big?kb=1024": {200, 1 << 20},
		"/big?kb=5000": {400, -1}, "/big": {400, -1}, "/slow?ms=99999": {400, -1}, "/slow?ms=-1": {400, -1},
	} {
		var c fasthttp.RequestCtx
		c.Request.SetRequestURI(path)
		o.handle(&c)
		if c.Response.StatusCode() != want[0] || want[1] >= 0 && len(c.Response.Body()) != want[1] {
			t.Errorf("%s: status %d, %d bytes", path, c.Response.StatusCode(), len(c.Response.Body()))
		}
	}
}

func TestServeOrigin(t *testing.T) {
	t.Setenv("PORT", "")
	if err := serveOrigin(t.Context()); err == nil {
		t.Error("an origin without a port was started")
	}
	ports, err := freePorts(1)
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("PORT", fmt.Sprint(ports[0]))
	t.Setenv("PACELINE_ADDRESS", "127.0.0.1")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- serveOrigin(ctx) }()
	wait, stop := context.WithTimeout(t.Context(), 10*time.Second)
	defer stop()
	if err := poll(wait, time.Millisecond, func() bool { return answersOK("http://127.0.0.1:" + fmt.Sprint(ports[0])) }); err != nil {
		t.Error("the origin does not answer")
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestParseRouting(t *testing.T) {
	for _, bad := range [][]string{
		{"-systems", "squid"}, {"-run", "dance"}, {"-reps", "0"}, {"-dur", "10ms"}, {"-rate", "0"}, {"-idle", "9999999"},
		{"-rate", "1000000"}, {"-nonsense"},
	} {
		if _, err := parseRouting(bad); err == nil {
			t.Errorf("%v was accepted", bad)
		}
	}
	o, err := parseRouting([]string{"-run", "rate,idle", "-systems", "haproxy,paceline", "-out", "x.json", "-reps", "2"})
	if err != nil || len(o.proxies) != 2 || len(o.sections) != 2 || o.out != "x.json" || o.reps != 2 {
		t.Errorf("%+v, %v", o, err)
	}
}

// TestWhatIsMissingIsSaid takes everything away and reads the notes.
func TestWhatIsMissingIsSaid(t *testing.T) {
	o, err := parseRouting([]string{"-paceline", "/bin/true"})
	if err != nil {
		t.Fatal(err)
	}
	o.log = t.Logf
	t.Setenv("PATH", t.TempDir())
	versions := map[string]string{}
	checkTools(o, versions)
	if len(o.proxies) != 0 || len(versions) != 0 || !slices.Equal(o.sections, []string{"rate", "idle", "churn", "kill"}) {
		t.Errorf("left %v and %v", o.proxies, o.sections)
	}
	all := strings.Join(o.notes, "\n")
	for _, want := range []string{"saturation: there is no wrk", "haproxy: it is not installed", "caddy: it", "paceline: this binary has no proxy"} {
		if !strings.Contains(all, want) {
			t.Errorf("no note says %q:\n%s", want, all)
		}
	}
}

var twoOrigins = []instance{{ID: "A", State: "running", Address: "127.0.0.1:1"}, {ID: "B", State: "running", Address: "127.0.0.1:2"}}

func TestConfigs(t *testing.T) {
	dir := t.TempDir()
	plain, sticky := setup{clients: 10}, setup{sticky: true, retry: true, clients: 10}
	cases := []struct {
		name, plain, sticky string
		only                string // what only the second has
		check               []string
	}{
		{"haproxy", haproxyConfig("127.0.0.1:3", dir+"/s", twoOrigins, plain),
			haproxyConfig("127.0.0.1:3", dir+"/s", twoOrigins, sticky), "cookie ORIGIN insert", []string{"haproxy", "-c", "-f"}},
		{"nginx", nginxConfig("127.0.0.1:3", dir, twoOrigins, plain),
			nginxConfig("127.0.0.1:3", dir, twoOrigins, plain), "", []string{"nginx", "-t", "-e", "/dev/null", "-c"}},
		{"caddy", caddyConfig("127.0.0.1:3", twoOrigins, plain),
			caddyConfig("127.0.0.1:3", twoOrigins, sticky), "lb_policy cookie", []string{"caddy", "validate", "--adapter", "caddyfile", "--config"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			for _, text := range []string{c.plain, c.sticky} {
				if !strings.Contains(text, "127.0.0.1:1") || !strings.Contains(text, "127.0.0.1:2") {
					t.Errorf("an origin is missing:\n%s", text)
				}
				file := filepath.Join(dir, c.name)
				if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
				if _, err := exec.LookPath(c.check[0]); err != nil {
					continue // its own check is one more
				}
				cmd := exec.Command(c.check[0], append(slices.Clone(c.check[1:]), file)...)
				cmd.Env = append(os.Environ(), "HOME="+dir, "XDG_CONFIG_HOME="+dir, "XDG_DATA_HOME="+dir)
				if out, err := cmd.CombinedOutput(); err != nil {
					t.Errorf("%v: %s\n%s", err, out, text)
				}
			}
			if c.only != "" && (strings.Contains(c.plain, c.only) || !strings.Contains(c.sticky, c.only)) {
				t.Errorf("only the sticky one should have %q", c.only)
			}
		})
	}
	if text := haproxyConfig("127.0.0.1:3", "s", twoOrigins, setup{dynamic: true}); strings.Contains(text, "server o") {
		t.Errorf("servers that are to come at run time are in the file:\n%s", text)
	}
}

func TestHAProxyFollows(t *testing.T) {
	var asked []string
	h := &haproxyServers{ask: func(c string) (string, error) {
		asked = append(asked, c)
		if strings.HasPrefix(c, "add") {
			return "New server registered.\n\n", nil
		}
		return "\n", nil
	}}
	steps := []struct {
		list []instance
		want []string
	}{
		{[]instance{{ID: "A", State: "running", Health: "healthy", Address: "x:1"}, {ID: "B", State: "running", Health: "unknown", Address: "x:2"}},
			[]string{"add server origins/ia x:1", "enable server origins/ia"}},
		{[]instance{{ID: "A", State: "running", Health: "healthy", Address: "x:1"}, {ID: "B", State: "running", Health: "healthy", Address: "x:2"}},
			[]string{"add server origins/ib x:2", "enable server origins/ib"}},
		{[]instance{{ID: "A", State: "draining", Address: "x:1"}, {ID: "B", State: "running", Health: "healthy", Address: "x:2"}},
			[]string{"set server origins/ia state maint"}},
		{[]instance{{ID: "A", State: "stopped"}, {ID: "B", State: "running", Health: "healthy", Address: "x:2"}}, nil},
	}
	for i, s := range steps {
		asked = nil
		if err := h.follow(s.list); err != nil || !slices.Equal(asked, s.want) {
			t.Errorf("step %d: %q, %v; want %q", i, asked, err, s.want)
		}
	}
	h.ask = func(string) (string, error) { return "No such server.", nil }
	if err := h.follow([]instance{{ID: "C", State: "running", Health: "healthy", Address: "x:3"}}); err == nil {
		t.Error("a complaint of HAProxy went unnoticed")
	}
}

func TestSessions(t *testing.T) {
	sticky := true
	n := 0
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n++
		c, err := r.Cookie("session")
		if err != nil {
			http.SetCookie(w, &http.Cookie{Name: "session", Value: fmt.Sprint(n % 3)})
			return
		}
		if sticky {
			_, _ = fmt.Fprint(w, c.Value)
		} else {
			_, _ = fmt.Fprint(w, n%3)
		}
	}))
	defer s.Close()
	addr := s.Listener.Addr().String()
	cookies, err := gatherCookies(addr, 6)
	if err != nil || len(cookies) != 6 || cookies[0] != "session=1" || cookies[2] != "session=0" {
		t.Fatalf("%q, %v", cookies, err)
	}
	if n, err := strays(addr, cookies); n != 0 || err != nil {
		t.Errorf("%d sessions moved, %v", n, err)
	}
	sticky = false
	if n, err := strays(addr, cookies); n != 6 || err != nil {
		t.Errorf("%d sessions moved, %v; want all", n, err)
	}
	name, err := cookieScript(t.TempDir(), cookies)
	if text, _ := os.ReadFile(name); err != nil || strings.Count(string(text), `"session=`) != 6 {
		t.Errorf("%v:\n%s", err, text)
	}
	none := httptest.NewServer(http.NotFoundHandler())
	defer none.Close()
	if _, err := gatherCookies(none.Listener.Addr().String(), 1); err == nil {
		t.Error("an answer without a cookie began a session")
	}
}

func TestIdlers(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer s.Close()
	i, err := openIdlers(t.Context(), s.Listener.Addr().String(), 20)
	if err != nil {
		t.Fatal(err)
	}
	defer i.close()
	if n := i.lost(); n != 0 {
		t.Errorf("%d of 20 connections are lost", n)
	}
	s.CloseClientConnections()
	if n := i.lost(); n != 20 {
		t.Errorf("%d connections are lost, want all", n)
	}
	if a, b := sourceOf(idlePerSource-1), sourceOf(idlePerSource); !a.Equal(net.IPv4(127, 0, 0, 1)) || !b.Equal(net.IPv4(127, 0, 0, 2)) {
		t.Errorf("sources %v and %v", a, b)
	}
	if ip := sourceOf(maxIdle); ip.To4()[3] < 2 {
		t.Errorf("the last source is %v", ip)
	}
}

// TestFleetWaits follows a group whose instances come and settle.
func TestFleetWaits(t *testing.T) {
	asked := 0
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet {
			http.Error(w, "not now", http.StatusConflict)
			return
		}
		asked++
		state := "starting"
		if asked > 1 {
			state = "running"
		}
		_, _ = fmt.Fprintf(w, `{"converged":%v,"instances":[{"id":"A","state":"running","address":"x:1"},
			{"id":"B","state":%q,"address":"x:2"},{"id":"C","state":"draining","address":"x:3"}]}`, asked > 2, state)
	}))
	defer s.Close()
	f := &fleet{api: s.Listener.Addr().String(), cli: http.DefaultClient}
	if err := f.waitFor(t.Context(), 2); err != nil || asked != 3 {
		t.Errorf("asked %d times, %v; want 3", asked, err)
	}
	if list, err := f.running(t.Context()); err != nil || len(list) != 2 {
		t.Errorf("%v, %v; want two", list, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := f.waitFor(ctx, 3); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "2 of 3") {
		t.Errorf("%v, want that 2 of 3 run", err)
	}
	if err := f.scale(t.Context(), 5); err == nil || !strings.Contains(err.Error(), "409") {
		t.Errorf("%v, want the status", err)
	}
}

func TestRouteReport(t *testing.T) {
	r := newReport()
	r.env.Systems = map[string]string{ours: "1", peerHAProxy: "2", peerCaddy: "3"}
	cpu := key{"saturation", "CPU a request", "µs", median}
	for _, v := range []float64{9, 10, 11} {
		r.add(ours, cpu, v*1.2)
		r.add(peerHAProxy, cpu, v)
		r.add(peerCaddy, cpu, v*4)
	}
	r.add(ours, key{"churn", "failed", "", sum}, 0)
	r.add(ours, key{"churn", "failed", "", sum}, 1)
	r.add(ours, key{"idle", "RSS", "MB", median}, 149)
	r.add(peerHAProxy, key{"rate", "p99", "ms", median}, 3)
	o := &routeOptions{out: filepath.Join(t.TempDir(), "sub", "r.json"), cpus: cpuLayout{proxy: []int{0}}, notes: []string{"nginx: gone"}}
	var out bytes.Buffer
	if err := printRoutes(&out, o, r); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"12 (1.20×)", "40 (4.00×)", "≤ 1.15× haproxy MISSED, ≤ 0.35× caddy ok", "≤ 0 MISSED", "≤ 150 ok", "not measured: nginx: gone",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the table lacks %q:\n%s", want, out.String())
		}
	}
	if strings.Contains(out.String(), "≤ 1.2× haproxy") {
		t.Errorf("a goal was judged without our own figure:\n%s", out.String())
	}
	if err := saveRoutes(o, r); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(o.out); err != nil || !bytes.Contains(text, []byte(`"goal": "≤ 0.35× caddy"`)) {
		t.Errorf("saved %s, %v", text, err)
	}
	o.cpus = cpuLayout{}
	out.Reset()
	if err := printRoutes(&out, o, r); err != nil || strings.Contains(out.String(), "MISSED") {
		t.Errorf("goals were judged although nothing was pinned: %v\n%s", err, out.String())
	}
}

// TestRouteGoalsNameRows finds goals that no section reports: each section's
// source has the name of the row.
func TestRouteGoalsNameRows(t *testing.T) {
	var source strings.Builder
	for _, name := range []string{"route_sections.go", "churn.go"} {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		source.Write(text)
	}
	for name := range routeGoals() {
		section, row, _ := strings.Cut(name, " ")
		if !slices.Contains(sectionNames(), section) || !strings.Contains(source.String(), `"`+row+`"`) {
			t.Errorf("goal %q belongs to no row", name)
		}
	}
}
