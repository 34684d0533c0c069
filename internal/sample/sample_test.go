package sample_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/pacelinehq/paceline/internal/sample"
)

const beSample = "PACELINE_TEST_BE_SAMPLE"

func TestMain(m *testing.M) {
	if os.Getenv(beSample) != "" {
		os.Exit(sample.Main(context.Background(), os.Args[1:], os.Getenv, os.Stdout))
	}
	goleak.VerifyTestMain(m)
}

// running is a sample in a process of its own.
type running struct {
	cmd  *exec.Cmd
	url  string
	done chan error
	mu   sync.Mutex
	out  bytes.Buffer
}

func (r *running) Write(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.out.Write(b)
}

func start(t *testing.T, env ...string) *running {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	_, port, _ := net.SplitHostPort(addr)
	_ = l.Close()
	self, _ := os.Executable()
	r := &running{cmd: exec.Command(self), url: "http://" + addr, done: make(chan error, 1)}
	r.cmd.Env = []string{beSample + "=1", "PORT=" + port, "PACELINE_INSTANCE=i1", "PACELINE_GROUP=web", "PACELINE_ZONE=a", "PACELINE_NODE=n1"}
	r.cmd.Env = append(r.cmd.Env, env...)
	r.cmd.Stdout = r
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { r.done <- r.cmd.Wait() }()
	t.Cleanup(func() {
		_ = r.cmd.Process.Kill()
		http.DefaultClient.CloseIdleConnections()
	})
	eventually(t, "it serves", func() bool { code, _ := r.get("/healthz"); return code == 200 })
	return r
}

func (r *running) get(path string) (int, string) {
	resp, err := http.Get(r.url + path)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close() //nolint:errcheck // a test
	b, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b)
}

func (r *running) post(t *testing.T, path string) {
	t.Helper()
	resp, err := http.Post(r.url+path, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
}

func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	end := time.After(20 * time.Second)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("never: %s", what)
		}
	}
}

func TestSampleServesWhatItPromises(t *testing.T) {
	r := start(t)
	code, body := r.get("/whoami")
	var who struct {
		Instance, Group, Zone, Node string
		PID                         int
	}
	if err := json.Unmarshal([]byte(body), &who); err != nil || code != 200 {
		t.Fatalf("%d %s: %v", code, body, err)
	}
	if who.Instance != "i1" || who.Group != "web" || who.Zone != "a" || who.Node != "n1" || who.PID != r.cmd.Process.Pid {
		t.Errorf("got %+v", who)
	}
	for path, want := range map[string]int{
		"/": 200, "/work?ms=1": 200, "/sleep?ms=1": 200, "/work": 200, "/nothing": 404,
		"/work?ms=x": 400, "/work?ms=-1": 400, "/work?ms=10001": 400, "/sleep?ms=99999999999999999999": 400, "/fail": 405,
	} {
		if code, body := r.get(path); code != want {
			t.Errorf("%s: got %d %q, want %d", path, code, body, want)
		}
	}
	_, text := r.get("/metrics")
	if !strings.Contains(text, "\nsample_requests_total 8\n") || !strings.Contains(text, "\nsample_inflight 0\n") {
		t.Errorf("got %s", text)
	}
	r.post(t, "/fail")
	if code, _ := r.get("/healthz"); code != 503 {
		t.Errorf("failing: got %d", code)
	}
	r.post(t, "/recover")
	if code, _ := r.get("/healthz"); code != 200 {
		t.Errorf("recovered: got %d", code)
	}
	t.Logf("RSS %d KiB (test binary)", rss(t, r.cmd.Process.Pid))
}

func TestWorkUsesCPU(t *testing.T) {
	r := start(t)
	if code, body := r.get("/work?ms=300"); code != 200 {
		t.Fatalf("%d %s", code, body)
	}
	_ = r.cmd.Process.Signal(syscall.SIGTERM)
	<-r.done
	if used := r.cmd.ProcessState.UserTime(); used <= 0 {
		t.Errorf("300 ms of work used %s", used)
	}
}

func TestTermFinishesRequestsInFlight(t *testing.T) {
	r := start(t)
	answer := make(chan string, 1)
	go func() { _, body := r.get("/sleep?ms=700"); answer <- body }()
	eventually(t, "the request is in flight", func() bool {
		_, text := r.get("/metrics")
		return strings.Contains(text, "\nsample_inflight 1\n")
	})
	if err := r.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if body := <-answer; body != "i1 700ms\n" {
		t.Errorf("the request in flight got %q", body)
	}
	if err := <-r.done; err != nil {
		t.Errorf("exit: %v", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if !strings.Contains(r.out.String(), "1 requests in flight") || !strings.Contains(r.out.String(), "stopped after 1 requests") {
		t.Errorf("log: %s", r.out.String())
	}
}

func TestSampleSaysWhatIsWrong(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() //nolint:errcheck // a test
	for _, c := range []struct {
		args []string
		port string
		code int
		want string
	}{
		{nil, "", 1, "PORT is not set"},
		{nil, "99999", 1, "invalid port"},
		{nil, strconv.Itoa(l.Addr().(*net.TCPAddr).Port), 1, "address already in use"},
		{[]string{"x"}, "1", 2, "takes no arguments"},
	} {
		self, _ := os.Executable()
		cmd := exec.Command(self, c.args...)
		cmd.Env = []string{beSample + "=1", "PORT=" + c.port}
		out, _ := cmd.Output()
		if cmd.ProcessState.ExitCode() != c.code || !strings.Contains(string(out), c.want) {
			t.Errorf("%+v: got exit %d, %s", c, cmd.ProcessState.ExitCode(), out)
		}
	}
}

func rss(t *testing.T, pid int) int64 {
	t.Helper()
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/statm")
	if err != nil {
		t.Skip(err)
	}
	pages, _ := strconv.ParseInt(strings.Fields(string(b))[1], 10, 64)
	return pages * int64(os.Getpagesize()) / 1024
}

// TestHeartbeats: the sample says to its node that it serves, or does not, and
// refuses a configuration that could not work.
func TestHeartbeats(t *testing.T) {
	beats := make(chan string, 100)
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		select {
		case beats <- r.Method + " " + r.URL.Path + " " + r.Header.Get("Authorization") + " " + string(body):
		default:
		}
		_, _ = io.WriteString(w, `{"ttl":"10s"}`)
	}))
	defer api.Close()
	r := start(t, "HEARTBEAT=100ms", "PACELINE_API="+api.URL, "PACELINE_TOKEN=secret")
	const good = `PUT /v1/instances/i1/health Bearer secret {"status":"pass"}`
	if got := <-beats; got != good {
		t.Errorf("got %q", got)
	}
	r.post(t, "/fail")
	eventually(t, "it says that it fails", func() bool {
		return <-beats == `PUT /v1/instances/i1/health Bearer secret {"output":"not serving","status":"fail"}`
	})
	for _, env := range []string{"HEARTBEAT=soon", "HEARTBEAT=1ms", "HEARTBEAT=1s"} {
		name, value, _ := strings.Cut(env, "=")
		var out bytes.Buffer
		code := sample.Main(t.Context(), nil, func(k string) string { return map[string]string{name: value, "PORT": "0"}[k] }, &out)
		if code != 1 || !strings.Contains(out.String(), "sample: HEARTBEAT is ") {
			t.Errorf("%s: status %d, %q", env, code, out.String())
		}
	}
}
