//go:build !xds

package node_test

import (
	"strings"
	"testing"

	"github.com/pacelinehq/paceline/internal/node"
)

// A binary without xDS says so, and how to get one.
func TestWithoutXDS(t *testing.T) {
	cfg := node.Config{Name: "n1", DataDir: t.TempDir(), XDSAddr: "127.0.0.1:7754"}
	n, err := node.New(cfg.WithDefaults(), node.Environment{})
	if err == nil {
		_ = n.Stop(t.Context())
		t.Fatal("an address that nothing can serve is taken")
	}
	if !strings.Contains(err.Error(), "--xds-addr") || !strings.Contains(err.Error(), "make build XDS=1") {
		t.Errorf("the error is of no help: %v", err)
	}
}
