package top

import (
	"cmp"
	"slices"
	"strings"
)

// Order is what the rows are sorted by.
type Order string

// The orders. Figures come largest first, what is not known last.
const (
	ByName     Order = "name"
	ByRequests Order = "requests"
	ByErrors   Order = "errors"
	ByInFlight Order = "inflight"
	ByP50      Order = "p50"
	ByP99      Order = "p99"
	BySessions Order = "sessions"
)

// Orders lists the orders as the columns stand.
func Orders() []Order {
	return []Order{ByName, ByRequests, ByErrors, ByInFlight, ByP50, ByP99, BySessions}
}

// Select returns the table with only the rows that have text in the name of
// their group, instance or node, sorted. A service stays whole when its group
// has the text. The table itself stays as it is.
func (t *Table) Select(text string, by Order) *Table {
	out := *t
	out.Services = nil
	for _, s := range t.Services {
		s.Instances = slices.Clone(s.Instances)
		if !strings.Contains(s.Group, text) {
			s.Instances = slices.DeleteFunc(s.Instances, func(i Instance) bool {
				return !strings.Contains(i.ID, text) && !strings.Contains(i.Node, text)
			})
			if len(s.Instances) == 0 {
				continue
			}
		}
		// The sorts are stable, and the rows come in the order of their names.
		slices.SortStableFunc(s.Instances, func(a, b Instance) int { return a.Traffic.compare(&b.Traffic, by) })
		out.Services = append(out.Services, s)
	}
	slices.SortStableFunc(out.Services, func(a, b Service) int { return a.compare(&b, by) })
	return &out
}

func (s *Service) compare(o *Service, by Order) int {
	switch by {
	case ByP50:
		return larger(s.P50, o.P50)
	case ByP99:
		return larger(s.P99, o.P99)
	case BySessions:
		return larger(s.Sessions, o.Sessions)
	}
	return s.Traffic.compare(&o.Traffic, by)
}

func (t *Traffic) compare(o *Traffic, by Order) int {
	switch by {
	case ByRequests:
		return larger(t.Requests, o.Requests)
	case ByErrors:
		return cmp.Or(larger(t.Errors, o.Errors), larger(t.Failures, o.Failures))
	case ByInFlight:
		return larger(&t.InFlight, &o.InFlight)
	}
	return 0
}

// larger puts the larger figure first and none last.
func larger[T cmp.Ordered](a, b *T) int {
	switch {
	case a == nil && b == nil:
		return 0
	case a == nil:
		return 1
	case b == nil:
		return -1
	}
	return cmp.Compare(*b, *a)
}
