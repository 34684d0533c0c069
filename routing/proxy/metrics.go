package proxy

import (
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// collector gives the counters to Prometheus. They are kept as plain atomics,
// because a request touches a dozen of them.
type collector struct{ p *Proxy }

var (
	groupLabel    = []string{"group"}
	instanceLabel = []string{"group", "instance"}

	descConnections = desc("connections", "Open connections of clients.")
	descTunnels     = desc("tunnels", "Open upgraded and TCP connections.")
	descAccepted    = desc("accepted_total", "Connections accepted.")
	descRefused     = desc("connections_refused_total", "Connections refused because the node has as many as it takes.")
	descMalformed   = desc("malformed_requests_total", "Requests refused because they are not valid HTTP.")
	descSlowHeads   = desc("slow_heads_total", "Requests whose head did not arrive in time.")
	descUnrouted    = desc("unrouted_requests_total", "Requests that no service takes.")
	descLooks       = desc("looks_total", "Looks at a node whose instances were in doubt, by what was found.", "found")
	descPlanIndex   = desc("plan_index", "Index of the replicated state that requests are routed by.")

	descRequests  = desc("requests_total", "Requests answered, by class of the status; \"none\" without an answer.", "group", "code")
	descDuration  = desc("request_seconds", "Time until the head of the answer.", groupLabel...)
	descInFlight  = desc("requests_in_flight", "Requests being answered.", groupLabel...)
	descWaiting   = desc("requests_waiting", "Requests and TCP connections that wait for an instance.", groupLabel...)
	descEndpoints = desc("endpoints", "Instances, by whether requests are sent to them.", "group", "state")
	descEvents    = desc("events_total", "What the proxy did on its own account.", "group", "event")
	descReceived  = desc("answer_bytes_total", "Bytes of bodies of answers.", groupLabel...)
	descSent      = desc("request_bytes_total", "Bytes of bodies of requests.", groupLabel...)

	descInstanceRequests = desc("instance_requests_total", "Answers of an instance, by class of the status.", "group", "instance", "code")
	descInstanceDuration = desc("instance_request_seconds", "Time until the head of an instance's answer.", instanceLabel...)
	descInstanceFailures = desc("instance_failures_total", "Attempts at an instance that failed.", instanceLabel...)
	descInstanceInFlight = desc("instance_requests_in_flight", "Requests that an instance has from this node.", instanceLabel...)
	descInstanceEjected  = desc("instance_ejected", "Whether this node sends no requests to an instance because of its answers.", instanceLabel...)
)

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("paceline_proxy_"+name, help, labels, nil)
}

// Describe implements [prometheus.Collector]. The collector is unchecked: its
// series come and go with services and instances.
func (c collector) Describe(chan<- *prometheus.Desc) {}

// Collect implements [prometheus.Collector].
func (c collector) Collect(ch chan<- prometheus.Metric) {
	p := c.p
	count := func(d *prometheus.Desc, v uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	gauge := func(d *prometheus.Desc, v int64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v), labels...)
	}
	gauge(descConnections, int64(p.conns.len()))
	gauge(descTunnels, p.tunnels.Load())
	count(descAccepted, p.stats.accepted.Load())
	count(descRefused, p.stats.refused.Load())
	count(descMalformed, p.stats.malformed.Load())
	count(descSlowHeads, p.stats.slowHeads.Load())
	count(descUnrouted, p.stats.unrouted.Load())
	for found, name := range looksNames {
		count(descLooks, p.stats.looks[found].Load(), name)
	}
	pl := p.plan.Load()
	if pl == nil {
		return
	}
	gauge(descPlanIndex, int64(pl.index))
	for _, t := range pl.targets {
		collectService(t, count, gauge, ch)
		for _, u := range t.all {
			for class, name := range classNames {
				count(descInstanceRequests, u.stats.codes[class].Load(), t.group, u.id, name)
			}
			ch <- durations(descInstanceDuration, &u.stats, t.group, u.id)
			count(descInstanceFailures, u.stats.failures.Load(), t.group, u.id)
			gauge(descInstanceInFlight, u.stats.inflight.Load(), t.group, u.id)
			gauge(descInstanceEjected, boolInt(u.ejection.out.Load()), t.group, u.id)
		}
	}
}

var classNames = [6]string{"none", "1xx", "2xx", "3xx", "4xx", "5xx"}

func boolInt(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

type (
	counterFunc func(d *prometheus.Desc, v uint64, labels ...string)
	gaugeFunc   func(d *prometheus.Desc, v int64, labels ...string)
)

func collectService(t *target, count counterFunc, gauge gaugeFunc, ch chan<- prometheus.Metric) {
	for class, name := range classNames {
		count(descRequests, t.stats.codes[class].Load(), t.group, name)
	}
	gauge(descInFlight, t.stats.inflight.Load(), t.group)
	gauge(descWaiting, t.waiting(), t.group)
	gauge(descEndpoints, int64(len(t.ups)), t.group, "used")
	gauge(descEndpoints, int64(len(t.all)-len(t.ups)), t.group, "unused")
	count(descReceived, t.stats.received.Load(), t.group)
	count(descSent, t.stats.sent.Load(), t.group)
	e := &t.events
	for name, v := range map[string]uint64{
		"retry": e.retries.Load(), "retry_silent": e.moved.Load(), "retry_over_budget": e.noBudget.Load(), "hedge": e.hedges.Load(),
		"ejection": e.ejections.Load(), "ejection_capped": e.ejectionCapped.Load(),
		"queued": e.queued.Load(), "queue_full": e.queueFull.Load(), "queue_timeout": e.queueTimeouts.Load(), "wake": e.wakes.Load(),
		"rate_limited": e.rateLimited.Load(), "connection_limited": e.connLimited.Load(), "body_too_large": e.tooLarge.Load(),
		"upgrade": e.upgrades.Load(), "client_gone": e.clientGone.Load(), "cookie_refused": e.badCookies.Load(),
		"failure": t.stats.failures.Load(),
	} {
		count(descEvents, v, t.group, name)
	}
	ch <- durations(descDuration, &t.stats, t.group)
}

// The buckets that are exported: two an octave, from some 60 µs to a minute.
// More would be exact beyond what charts show, and cost every scrape.
const (
	exportEvery = subBuckets / 2
	exportFrom  = 2 * subBuckets
	exportTo    = 22 * subBuckets
)

func durations(d *prometheus.Desc, c *counters, labels ...string) prometheus.Metric {
	buckets, total := map[float64]uint64{}, uint64(0)
	counts := c.latency.counts()
	for k, n := range counts {
		total += n
		if k >= exportFrom && k < exportTo && k%exportEvery == exportEvery-1 {
			buckets[upperBound(k).Seconds()] = total
		}
	}
	return prometheus.MustNewConstHistogram(d, total, time.Duration(c.latencySum.Load()).Seconds(), buckets, labels...)
}

// Sample gives the rates since the last call to push: for each instance that
// this node has routed to, or that runs on it, "requests" (a second),
// "inflight", and "responseTime" (ms, the mean) when there were any. Requests
// that wait for an instance are in flight, too: each instance that would take
// them has its share, so that a policy sees what is asked of the group. It is
// called by one goroutine.
func (p *Proxy) Sample(node string, push func(group, instance, metric string, value float64)) {
	pl, now := p.plan.Load(), p.clock.now()
	if pl == nil {
		return
	}
	span := (now - p.sampled).Seconds()
	p.sampled = now
	if span <= 0 {
		return
	}
	for _, t := range pl.targets {
		share := t.waitingShare()
		for _, u := range t.all {
			total, waiting := u.stats.requests.Load(), 0.0
			if share > 0 && slices.Contains(t.ups, u) {
				waiting = share
			}
			if total == 0 && waiting == 0 && u.Node != node {
				continue
			}
			sum := u.stats.latencySum.Load()
			before := u.before
			u.before = reading{total, sum}
			push(t.group, u.id, "requests", float64(total-before.requests)/span)
			push(t.group, u.id, "inflight", float64(u.stats.inflight.Load())+waiting)
			if n := total - before.requests; n > 0 {
				mean := time.Duration((sum - before.latency) / n)
				push(t.group, u.id, "responseTime", float64(mean)/float64(time.Millisecond))
			}
		}
	}
}

// waitingShare is how many of the waiting requests come to each instance that
// is used.
func (t *target) waitingShare() float64 {
	if len(t.ups) == 0 {
		return 0
	}
	return float64(t.waiting()) / float64(len(t.ups))
}

// reading is what was read of an instance's counters at the last sample.
type reading struct{ requests, latency uint64 }
