package cluster_test

import (
	"fmt"
	"testing"
)

func TestThreeNodesElectAndWrite(t *testing.T) {
	f := running(t, 3)
	for i, n := range f.nodes {
		name := fmt.Sprintf("t%d", i)
		res := mustPut(t, n.Cluster, name)
		if s := n.State(); s.Index() < res.Index || !hasTemplate(s, name) {
			t.Errorf("%s does not see its own write at index %d (its state is at %d)", n.name, res.Index, s.Index())
		}
		if res.Value == nil {
			t.Errorf("%s got no value back", n.name)
		}
	}
	for _, n := range f.nodes {
		s, err := n.StrongState(within(t))
		if err != nil {
			t.Fatal(err)
		}
		for i := range f.nodes {
			if !hasTemplate(s, fmt.Sprintf("t%d", i)) {
				t.Errorf("a strong read on %s lacks t%d", n.name, i)
			}
		}
	}
}
