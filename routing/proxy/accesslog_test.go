package proxy_test

import (
	"bytes"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/pacelinehq/paceline/fsm"
	"github.com/pacelinehq/paceline/routing/proxy"
)

// lines is a log that a test reads while it is written.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *lines) requests() (list []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range strings.Lines(l.b.String()) {
		if strings.Contains(line, "msg=request") {
			list = append(list, line)
		}
	}
	return list
}

// The log has the share of the requests that was asked for, and each failure.
func TestAccessLog(t *testing.T) {
	for _, tt := range []struct {
		share            float64
		answered, failed bool
	}{{0, false, false}, {1e-12, false, true}, {1, true, true}} {
		log := &lines{}
		f := newFleet(t, fsm.Service{Retry: fsm.Retry{Attempts: 1}}, withConfig(func(c *proxy.Config) {
			c.AccessLog, c.Logger = tt.share, slog.New(slog.NewTextHandler(log, nil))
		}))
		f.script("i1", func(c *rawConn) {
			if strings.HasPrefix(c.head(), "GET /ok") {
				c.say(ok)
			}
		})
		f.ask("GET /ok?secret HTTP/1.1\r\nHost: a.test\r\n\r\n").want(t, 200, "ok")
		f.ask("GET /bad HTTP/1.1\r\nHost: a.test\r\n\r\n").want(t, 502, "*")
		f.quiet()
		f.stop()
		got := strings.Join(log.requests(), "")
		if strings.Contains(got, "path=/ok status=200") != tt.answered || strings.Contains(got, "path=/bad status=502") != tt.failed {
			t.Errorf("share %v: logged %s", tt.share, got)
		}
		if strings.Contains(got, "secret") {
			t.Error("a query was logged")
		}
		if tt.answered && !strings.Contains(got, "instance=i1") {
			t.Errorf("the instance is missing: %s", got)
		}
	}
}
