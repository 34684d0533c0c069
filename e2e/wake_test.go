//go:build linux

package e2e_test

import (
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/pacelinehq/paceline/client"
	"github.com/pacelinehq/paceline/fsm"
)

// TestScaleFromZero has clients ask for a group that has no instance: each
// request, at whichever node, waits until one has started. None fails.
func TestScaleFromZero(t *testing.T) {
	quick(t)
	f := running(t, 3)
	tmpl := sample()
	tmpl.Name = "web"
	_, err := f.any().PutTemplate(t.Context(), tmpl)
	must(t, err)
	_, err = f.any().PutGroup(t.Context(), fsm.Group{
		Name: "web", Template: "web", MaxSize: 3,
		Service: &fsm.Service{Timeouts: fsm.Timeouts{Queue: fsm.Duration(settleDeadline)}},
	})
	must(t, err)
	for round, n := range f.nodes {
		f.known("web", n)
		began := time.Now()
		if round < 2 { // one request is enough to wake the group
			must(t, n.whoami())
			t.Logf("a request to %s was answered after %s", n.name, time.Since(began).Round(time.Millisecond))
		} else {
			f.askAll(t, 50)
			t.Logf("50 requests to all nodes were answered after %s", time.Since(began).Round(time.Millisecond))
		}
		f.toZero("web")
	}
	log, err := f.any().Activities(t.Context(), "web", client.WithConsistency(client.Strong))
	must(t, err)
	woken := 0
	for _, a := range log.Items {
		if a.Cause == "woken by a request" && a.To == 1 {
			woken++
		}
	}
	if woken != len(f.nodes) {
		t.Errorf("the group was woken %d times, the history says: %+v", woken, log.Items)
	}
}

// known waits until a node's proxy takes requests for a group.
func (f *fleet) known(group string, n *node) {
	f.t.Helper()
	eventually(f.t, settleDeadline, n.name+" knows "+group, func() error {
		_, err := n.cli().Service(f.t.Context(), group)
		return err
	})
}

// whoami asks an instance, through the node's proxy, who it is.
func (n *node) whoami() error {
	ctx, cancel := n.ctx(settleDeadline)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+n.traffic()+"/whoami", nil)
	if err != nil {
		return err
	}
	resp, err := n.http.Do(req)
	if err != nil {
		return err
	}
	body, err := readAll(resp.Body, nil)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s answered %s: %s", n.name, resp.Status, body)
	}
	return err
}

// askAll sends requests to all nodes at once, none of which may fail.
func (f *fleet) askAll(t testing.TB, requests int) {
	t.Helper()
	errs := make([]error, requests)
	var wg sync.WaitGroup
	for k := range requests {
		wg.Go(func() { errs[k] = f.nodes[k%len(f.nodes)].whoami() })
	}
	wg.Wait()
	if failed := slices.DeleteFunc(errs, func(err error) bool { return err == nil }); len(failed) > 0 {
		t.Errorf("%d of %d requests failed: %v", len(failed), requests, failed[0])
	}
}

// toZero takes a group's instances away and waits until they have ended.
func (f *fleet) toZero(name string) {
	f.t.Helper()
	_, err := f.any().ScaleGroup(f.t.Context(), name, client.ScaleRequest{Desired: 0})
	must(f.t, err)
	f.converged(name)
}
