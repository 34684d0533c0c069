package scaling

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/pacelinehq/paceline/fsm"
)

// remove empties a group that is being deleted and then removes it.
func (v *view) remove() {
	v.stop(slices.Concat(v.usable, v.leaving), "the group was deleted")
	if v.active() == 0 && len(v.ending) == 0 {
		v.out.Commands = append(v.out.Commands, fsm.RemoveGroup{Group: v.group.Name})
	}
}

// scaleIn drains what is usable beyond the desired size.
func (v *view) scaleIn() {
	extra := len(v.usable) - v.group.Desired
	if extra <= 0 {
		return
	}
	v.stop(take(&v.usable, extra, v.victimOrder()), fmt.Sprintf("scale-in: desired is %d", v.group.Desired))
}

// fill launches what is missing, as far as the back-off, the launch rate, the
// maximum size and the nodes allow.
func (v *view) fill() {
	missing := v.group.Desired - len(v.usable)
	if missing <= 0 || v.template == nil {
		return
	}
	allowed := v.rateLimited(v.heldBack(missing))
	room := v.group.MaxSize - v.active()
	early := min(max(0, allowed-room), v.mayGiveUp(), len(v.leaving))
	allowed = min(allowed, room+early)
	if allowed <= 0 {
		return
	}
	v.out.Placement = Place(v.fleet, v.group, v.template, allowed)
	placed := len(v.out.Placement.Nodes)
	replaces, cause := v.cause(placed)
	if n := placed - room; n > 0 {
		v.stop(take(&v.leaving, n, leaverOrder), fmt.Sprintf("%s; the group is at maxSize %d", v.leaveCause(), v.group.MaxSize))
	}
	v.unblock()
	v.launch(v.out.Placement.Nodes, replaces, cause)
}

// heldBack takes off one launch for each failed instance whose delay is not
// over. The others go ahead: one instance that crashes again and again must
// not keep its group from growing, or from replacing a lost node.
func (v *view) heldBack(missing int) int {
	b := v.out.Backoff
	if b.Held == 0 {
		return missing
	}
	v.out.Wake = sooner(v.out.Wake, b.Until)
	return max(0, missing-b.Held)
}

// rateLimited keeps launches within the burst. The launches of the window are
// counted in the state, so that a new leader does not begin a new window.
func (v *view) rateLimited(n int) int {
	recent := 0
	var oldest time.Time
	for _, i := range v.all {
		if v.fleet.now.Sub(i.LaunchedAt) < v.Limits.LaunchWindow {
			recent++
			oldest = sooner(oldest, i.LaunchedAt)
		}
	}
	free := max(0, v.Limits.LaunchBurst-recent)
	if n <= free {
		return n
	}
	if oldest.IsZero() {
		oldest = v.fleet.now
	}
	v.out.Wake = sooner(v.out.Wake, oldest.Add(v.Limits.LaunchWindow))
	return free
}

// mayGiveUp is how many leaving instances may go before their replacements
// exist, because the group is at its maximum: a small share at a time, so that
// a broken check or a drained node does not empty the group.
func (v *view) mayGiveUp() int {
	return max(0, max(1, v.group.Desired/inFluxShare)-v.inFlux())
}

// unblock gives up one leaving instance whose replacement finds no node, if its
// own node can take the replacement once it is gone. That is never one which
// leaves because of its node, so it is an unhealthy one.
func (v *view) unblock() {
	if v.out.Placement.Unplaced == 0 || v.inFlux() > 0 {
		return
	}
	for k, i := range v.leaving {
		p := v.fleet.named[i.Node]
		if p != nil && v.group.InZone(p.node.Zone) && p.barred(v.template) == "" {
			v.leaving = slices.Delete(slices.Clone(v.leaving), k, k+1)
			v.stop([]*fsm.Instance{i}, "unhealthy, and its replacement needs its place")
			return
		}
	}
}

func (v *view) launch(nodes []string, replaces bool, cause string) {
	if len(nodes) == 0 {
		return
	}
	launches := make([]fsm.Launch, len(nodes))
	for k, node := range nodes {
		launches[k] = fsm.Launch{ID: v.NewID(), Node: node}
	}
	v.out.Launches += len(launches)
	if replaces {
		v.out.Replacements += len(launches)
	}
	v.out.Commands = append(v.out.Commands, fsm.LaunchInstances{
		Group: v.group.Name, Launches: launches, Term: v.Term, Cause: shorten(cause), Replaces: replaces,
	})
}

// cause says why n instances are launched, and whether they make up for
// others: for leaving ones, or for ones that ended by themselves since the
// group last got its size.
func (v *view) cause(n int) (replaces bool, text string) {
	if len(v.leaving) > 0 {
		return true, v.leaveCause()
	}
	sized := later(v.group.CreatedAt, v.group.LastScaledAt)
	var newest *fsm.Instance
	for _, i := range v.ended {
		if i.State != fsm.Stopped && i.Since.After(sized) && (newest == nil || i.Since.After(newest.Since)) {
			newest = i
		}
	}
	if newest != nil {
		return true, fmt.Sprintf("makes up for instances that ended; the last one %s: %s", newest.State, cmp.Or(newest.Reason, "no reason known"))
	}
	return false, fmt.Sprintf("desired is %d, %s missing", v.group.Desired, plural(n, "instance"))
}

// leaveCause says why instances leave.
func (v *view) leaveCause() string {
	var unhealthy int
	var nodes []string
	for _, i := range v.leaving {
		if sick(i) {
			unhealthy++
		} else if !slices.Contains(nodes, i.Node) {
			nodes = append(nodes, i.Node)
		}
	}
	switch {
	case len(nodes) == 0:
		return "replaces " + plural(unhealthy, "unhealthy instance")
	case unhealthy == 0:
		return "moves instances off " + listed(nodes)
	}
	return fmt.Sprintf("replaces %s and moves instances off %s", plural(unhealthy, "unhealthy instance"), listed(nodes))
}

// retire drains leaving instances that healthy ones have made up for.
func (v *view) retire() {
	n := v.ready() + len(v.leaving) - v.group.Desired
	if n <= 0 {
		return
	}
	cause := v.leaveCause()
	v.stop(take(&v.leaving, n, leaverOrder), cause+", which are made up for")
}

// forget removes rows of ended instances: all but the newest few, and all that
// are old. Rows that the back-off or the launch rate still count stay.
func (v *view) forget() {
	newest := slices.SortedFunc(slices.Values(v.ended), func(a, b *fsm.Instance) int {
		return cmp.Or(b.Since.Compare(a.Since), cmp.Compare(b.ID, a.ID))
	})
	var gone []*fsm.Instance
	for k, i := range newest {
		needed := v.out.Backoff.evidence[i.ID] || v.fleet.now.Sub(i.LaunchedAt) < v.Limits.LaunchWindow
		old := v.fleet.now.Sub(i.Since) > v.Limits.KeepEndedFor
		if old || (k >= v.Limits.KeepEnded && !needed) {
			gone = append(gone, i)
		}
	}
	for chunk := range slices.Chunk(gone, idsPerCommand) {
		v.out.Commands = append(v.out.Commands, fsm.ForgetInstances{Instances: ids(chunk)})
	}
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
