package httpapi_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/pacelinehq/paceline/client"
	"github.com/pacelinehq/paceline/fsm"
	"github.com/pacelinehq/paceline/httpapi"
	"github.com/pacelinehq/paceline/httpapi/httpapitest"
)

// halfway begins a snapshot and does not finish it.
type halfway struct {
	*httpapitest.Cluster
	panics bool
}

// SaveSnapshot implements httpapi.Cluster.
func (h halfway) SaveSnapshot(_ context.Context, w io.Writer) error {
	if _, err := w.Write(make([]byte, 1<<16)); err != nil {
		return err
	}
	if h.panics {
		panic("boom")
	}
	return errors.New("the disk is gone")
}

// An answer that fails after it has begun is cut off: it must not look whole.
func TestHalfAnAnswerIsCutOff(t *testing.T) {
	for _, panics := range []bool{false, true} {
		a := newAPI(t, func(c *httpapi.Config) {
			c.Cluster = halfway{c.Cluster.(*httpapitest.Cluster), panics}
		})
		_, url := live(t, a)
		req, _ := http.NewRequestWithContext(t.Context(), "GET", url+"/v1/cluster/snapshot", nil)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			continue // cut off before the head
		}
		_, err = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		if err == nil {
			t.Errorf("panics=%v: half a snapshot came to a good end", panics)
		}
		const gauge = `paceline_http_requests_in_flight{method="GET",route="/v1/cluster/snapshot"} `
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		for text := ""; !strings.Contains(text, gauge+"0"); {
			if text = a.do("GET", "/metrics", "").Body.String(); ctx.Err() != nil || !strings.Contains(text, gauge) {
				t.Fatal("the request is counted for ever")
			}
		}
	}
	http.DefaultClient.CloseIdleConnections()
}

// unreadable is a body that nobody should touch.
type unreadable struct{ t *testing.T }

// Read implements io.Reader.
func (u unreadable) Read([]byte) (int, error) {
	u.t.Error("a body that says it is too large was read")
	return 0, io.EOF
}

func TestTooLargeIsRefusedUnread(t *testing.T) {
	a := newAPI(t)
	req, _ := http.NewRequestWithContext(t.Context(), "PUT", "/v1/templates/big", unreadable{t})
	req.ContentLength = httpapi.MaxBodyBytes + 1
	problem(t, a.send(req), 413, fsm.TooLarge)
}

// Shutdown ends the streams and the readers that wait, and then has nothing to
// wait for itself.
func TestShutdownOfAServer(t *testing.T) {
	a := newAPI(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- a.server.Serve(l) }()
	c, err := client.New(client.Config{Endpoints: []string{l.Addr().String()}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	streaming, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for e := range c.Events(ctx, "1.0") {
			if e.Type == "group.scaled" {
				close(streaming)
			}
		}
	}()
	select {
	case <-streaming:
	case <-ctx.Done():
		t.Fatal("the stream did not begin")
	}
	if err := a.server.Shutdown(ctx); err != nil {
		t.Errorf("shutdown: %v", err)
	}
	if err := <-served; err != nil {
		t.Errorf("serve: %v", err)
	}
	cancel()
	<-ended
}
