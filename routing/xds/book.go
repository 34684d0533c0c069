package xds

import (
	"errors"
	"sync"

	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"google.golang.org/protobuf/proto"

	"github.com/pacelinehq/paceline/fsm"
	"github.com/pacelinehq/paceline/routing"
)

// kind is a type of resource. The order is that in which changes are sent: what
// a resource refers to comes before it.
type kind struct {
	url, label string
	make       func(*service) types.Resource
}

var kinds = [...]kind{
	{resource.ClusterType, "cluster", func(s *service) types.Resource { return cluster(s) }},
	{resource.EndpointType, "endpoints", func(s *service) types.Resource { return assignment(s) }},
	{resource.ListenerType, "listener", func(s *service) types.Resource { return listener(s) }},
	{resource.RouteType, "route", func(s *service) types.Resource { return route(s) }},
}

// labelOf names a type in metrics and logs.
func labelOf(url string) (string, bool) {
	for _, k := range kinds {
		if k.url == url {
			return k.label, true
		}
	}
	return "", false
}

// book keeps the resources of every service, as of one state. The caches have
// a version for each resource and wake those clients only that asked for it;
// each resource is encoded once for all of them.
type book struct {
	cluster routing.Cluster
	metrics *metrics
	caches  [len(kinds)]*cache.LinearCache

	mu    sync.Mutex
	state *fsm.State // that was written last; nil before the first
	made  map[string]*made
}

// made is what was written of a service.
type made struct {
	index     uint64 // of the service; see fsm.ServiceIndex
	resources [len(kinds)]types.Resource
}

func newBook(c routing.Cluster, m *metrics) *book {
	b := &book{cluster: c, metrics: m, made: map[string]*made{}}
	for i, k := range kinds {
		b.caches[i] = cache.NewLinearCache(k.url)
	}
	return b
}

// mux finds the cache of a request's type.
func (b *book) mux() cache.Cache {
	m := &cache.MuxCache{
		Classify: func(r *cache.Request) string { return r.GetTypeUrl() },
		Caches:   map[string]cache.Cache{},
	}
	for i, k := range kinds {
		m.Caches[k.url] = b.caches[i]
	}
	return m
}

// renew brings the resources to the present state. What has not changed stays
// as it is. A state without a cluster is not written: it knows of nothing, which
// is not the same as that there is nothing.
func (b *book) renew() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.cluster.State()
	if s == b.state || s.ClusterID() == "" {
		return nil
	}
	var changed [len(kinds)]map[string]types.Resource
	for name, g := range s.Groups.All() {
		before := b.made[name]
		row, indexed := s.ServiceIndexes.Get(name)
		if before != nil && indexed && before.index == row.Index {
			continue
		}
		now := &made{}
		if indexed {
			now.index = row.Index
		}
		svc := serviceOf(s, g)
		for i, k := range kinds {
			now.resources[i] = k.make(&svc)
			if before != nil && proto.Equal(before.resources[i], now.resources[i]) {
				now.resources[i] = before.resources[i]
				continue
			}
			if changed[i] == nil {
				changed[i] = map[string]types.Resource{}
			}
			changed[i][name] = now.resources[i]
		}
		b.made[name] = now
	}
	var gone []string
	for name := range b.made {
		if !s.Groups.Has(name) {
			gone = append(gone, name)
			delete(b.made, name)
		}
	}
	b.state = s
	var err error
	for i, k := range kinds {
		if len(changed[i]) == 0 && len(gone) == 0 {
			continue
		}
		// An error is of a client's response; the cache has been written.
		err = errors.Join(err, b.caches[i].UpdateResources(changed[i], gone))
		b.metrics.resources.WithLabelValues(k.label).Set(float64(len(b.made)))
	}
	return err
}
