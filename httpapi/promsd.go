package httpapi

import (
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/pacelinehq/paceline/client"
	"github.com/pacelinehq/paceline/fsm"
)

// targetGroup is one entry of Prometheus' HTTP service discovery.
type targetGroup struct {
	Targets []string          `json:"targets"`
	Labels  map[string]string `json:"labels"`
}

// metaPrefix begins the labels that relabelling sees and storage does not.
const metaPrefix = "__meta_paceline_"

// prometheusTargets lists the endpoints, also those that do not pass: what is
// unhealthy is the first thing that one wants to look at.
func prometheusTargets(c *call) error {
	s, err := c.state()
	if err != nil {
		return err
	}
	out := []targetGroup{}
	add := func(g *fsm.Group) {
		for _, e := range endpointsOf(s, g.Name) {
			out = append(out, targetGroup{Targets: []string{e.Address}, Labels: targetLabels(g, &e)})
		}
	}
	if name := c.query.Get("service"); name != "" {
		if g, ok := s.Groups.Get(name); ok {
			add(g)
		}
		return c.json(http.StatusOK, out)
	}
	for _, g := range s.Groups.All() {
		add(g)
	}
	return c.json(http.StatusOK, out)
}

func targetLabels(g *fsm.Group, e *client.ServiceEndpoint) map[string]string {
	labels := map[string]string{
		"group": g.Name, "instance": e.Instance, "zone": e.Zone,
		metaPrefix + "group": g.Name, metaPrefix + "instance": e.Instance, metaPrefix + "incarnation": strconv.Itoa(e.Incarnation),
		metaPrefix + "node": e.Node, metaPrefix + "zone": e.Zone, metaPrefix + "health": string(e.Health),
		metaPrefix + "draining": strconv.FormatBool(e.Draining), metaPrefix + "weight": strconv.Itoa(e.Weight),
	}
	// Two labels may get one name: the last by key wins, in each answer.
	for _, k := range slices.Sorted(maps.Keys(g.Labels)) {
		labels[metaPrefix+"label_"+labelName(k)] = g.Labels[k]
	}
	return labels
}

// labelName makes a name that Prometheus takes out of any text.
func labelName(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			return r
		}
		return '_'
	}, s)
}
