package client

import (
	"context"
	"iter"
	"net/http"
	"net/url"

	"github.com/pacelinehq/paceline/fsm"
)

// path builds "/v1/a/b" from its parts, each escaped.
func path(parts ...string) string {
	p := "/v1"
	for _, s := range parts {
		p += "/" + url.PathEscape(s)
	}
	return p
}

func get[T any](ctx context.Context, c *Client, p string, opts []Option) (*T, error) {
	return send[T](ctx, c, http.MethodGet, p, nil, opts)
}

func send[T any](ctx context.Context, c *Client, method, p string, in any, opts []Option) (*T, error) {
	out := new(T)
	if err := c.call(ctx, newRequest(method, p, opts), in, out); err != nil {
		return nil, err
	}
	return out, nil
}

func (c *Client) act(ctx context.Context, method, p string, in any, opts []Option) error {
	return c.call(ctx, newRequest(method, p, opts), in, nil)
}

// Pages yields every item of a listing, page by page:
//
//	for t, err := range client.Pages(ctx, c.ListTemplates) { … }
func Pages[T any](ctx context.Context, list func(context.Context, ...Option) (*List[T], error), opts ...Option) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		for cursor := ""; ; {
			page, err := list(ctx, append(opts[:len(opts):len(opts)], WithCursor(cursor))...)
			if err != nil {
				var none T
				yield(none, err)
				return
			}
			for _, item := range page.Items {
				if !yield(item, nil) {
					return
				}
			}
			if cursor = page.Next; cursor == "" {
				return
			}
		}
	}
}

// PutTemplate creates a template or makes its next version.
func (c *Client) PutTemplate(ctx context.Context, t fsm.Template, opts ...Option) (*fsm.Template, error) {
	return send[fsm.Template](ctx, c, http.MethodPut, path("templates", t.Name), t, opts)
}

// GetTemplate reads a template's current version.
func (c *Client) GetTemplate(ctx context.Context, name string, opts ...Option) (*fsm.Template, error) {
	return get[fsm.Template](ctx, c, path("templates", name), opts)
}

// ListTemplates lists a page of templates.
func (c *Client) ListTemplates(ctx context.Context, opts ...Option) (*List[fsm.Template], error) {
	return get[List[fsm.Template]](ctx, c, path("templates"), opts)
}

// DeleteTemplate removes a template that no group uses.
func (c *Client) DeleteTemplate(ctx context.Context, name string, opts ...Option) error {
	return c.act(ctx, http.MethodDelete, path("templates", name), nil, opts)
}

// PutGroup creates or replaces a group.
func (c *Client) PutGroup(ctx context.Context, g fsm.Group, opts ...Option) (*fsm.Group, error) {
	return send[fsm.Group](ctx, c, http.MethodPut, path("groups", g.Name), g, opts)
}

// PatchGroup changes some fields of a group by a JSON merge patch (RFC 7396).
func (c *Client) PatchGroup(ctx context.Context, name string, patch any, opts ...Option) (*fsm.Group, error) {
	opts = append([]Option{header("Content-Type", "application/merge-patch+json")}, opts...)
	return send[fsm.Group](ctx, c, http.MethodPatch, path("groups", name), patch, opts)
}

// GetGroup reads a group.
func (c *Client) GetGroup(ctx context.Context, name string, opts ...Option) (*fsm.Group, error) {
	return get[fsm.Group](ctx, c, path("groups", name), opts)
}

// ListGroups lists a page of groups.
func (c *Client) ListGroups(ctx context.Context, opts ...Option) (*List[fsm.Group], error) {
	return get[List[fsm.Group]](ctx, c, path("groups"), opts)
}

// DeleteGroup drains a group's instances and then removes it.
func (c *Client) DeleteGroup(ctx context.Context, name string, opts ...Option) (*fsm.Group, error) {
	return send[fsm.Group](ctx, c, http.MethodDelete, path("groups", name), nil, opts)
}

// ScaleGroup sets a group's desired size.
func (c *Client) ScaleGroup(ctx context.Context, name string, req ScaleRequest, opts ...Option) (*fsm.Group, error) {
	return send[fsm.Group](ctx, c, http.MethodPost, path("groups", name, "scale"), req, opts)
}

// GroupStatus reads what a group wants and has.
func (c *Client) GroupStatus(ctx context.Context, name string, opts ...Option) (*GroupStatus, error) {
	return get[GroupStatus](ctx, c, path("groups", name, "status"), opts)
}

// Decisions lists a group's decisions, newest first.
func (c *Client) Decisions(ctx context.Context, group string, opts ...Option) (*List[fsm.Decision], error) {
	return get[List[fsm.Decision]](ctx, c, path("groups", group, "decisions"), opts)
}

// Activities lists what was done to a group, newest first.
func (c *Client) Activities(ctx context.Context, group string, opts ...Option) (*List[fsm.Activity], error) {
	return get[List[fsm.Activity]](ctx, c, path("groups", group, "activities"), opts)
}

// PushMetrics hands samples to the autoscaler.
func (c *Client) PushMetrics(ctx context.Context, group string, req MetricsRequest, opts ...Option) (*Accepted, error) {
	return send[Accepted](ctx, c, http.MethodPost, path("groups", group, "metrics"), req, opts)
}

// SendHeartbeat says for an instance with a ttl check whether it can serve. Any
// node takes it.
func (c *Client) SendHeartbeat(ctx context.Context, instance string, beat Heartbeat, opts ...Option) (*HeartbeatTaken, error) {
	return send[HeartbeatTaken](ctx, c, http.MethodPut, path("instances", instance, "health"), beat, opts)
}

// PutPolicy creates or replaces a policy of a group.
func (c *Client) PutPolicy(ctx context.Context, p fsm.Policy, opts ...Option) (*fsm.Policy, error) {
	return send[fsm.Policy](ctx, c, http.MethodPut, path("groups", p.Group, "policies", p.Name), p, opts)
}

// GetPolicy reads a policy.
func (c *Client) GetPolicy(ctx context.Context, group, name string, opts ...Option) (*fsm.Policy, error) {
	return get[fsm.Policy](ctx, c, path("groups", group, "policies", name), opts)
}

// ListPolicies lists a group's policies.
func (c *Client) ListPolicies(ctx context.Context, group string, opts ...Option) (*List[fsm.Policy], error) {
	return get[List[fsm.Policy]](ctx, c, path("groups", group, "policies"), opts)
}

// DeletePolicy removes a policy.
func (c *Client) DeletePolicy(ctx context.Context, group, name string, opts ...Option) error {
	return c.act(ctx, http.MethodDelete, path("groups", group, "policies", name), nil, opts)
}

// ListInstances lists a page of instances; filter by group, node, state,
// health, template or zone with [WithFilter].
func (c *Client) ListInstances(ctx context.Context, opts ...Option) (*List[fsm.Instance], error) {
	return get[List[fsm.Instance]](ctx, c, path("instances"), opts)
}

// GetInstance reads an instance.
func (c *Client) GetInstance(ctx context.Context, id string, opts ...Option) (*fsm.Instance, error) {
	return get[fsm.Instance](ctx, c, path("instances", id), opts)
}

// StopInstance drains an instance and then ends it. Its group launches
// another one unless its desired size is lowered too.
func (c *Client) StopInstance(ctx context.Context, id string, opts ...Option) (*fsm.Instance, error) {
	return send[fsm.Instance](ctx, c, http.MethodDelete, path("instances", id), nil, opts)
}

// ListNodes lists the nodes.
func (c *Client) ListNodes(ctx context.Context, opts ...Option) (*List[fsm.Node], error) {
	return get[List[fsm.Node]](ctx, c, path("nodes"), opts)
}

// GetNode reads a node.
func (c *Client) GetNode(ctx context.Context, name string, opts ...Option) (*fsm.Node, error) {
	return get[fsm.Node](ctx, c, path("nodes", name), opts)
}

// DrainNode moves the instances of a node elsewhere and places none there.
func (c *Client) DrainNode(ctx context.Context, name string, req DrainRequest, opts ...Option) (*fsm.Node, error) {
	return send[fsm.Node](ctx, c, http.MethodPost, path("nodes", name, "drain"), req, opts)
}

// UndrainNode lets a node take instances again.
func (c *Client) UndrainNode(ctx context.Context, name string, opts ...Option) (*fsm.Node, error) {
	return send[fsm.Node](ctx, c, http.MethodPost, path("nodes", name, "undrain"), nil, opts)
}

// RemoveNode forgets a node for good.
func (c *Client) RemoveNode(ctx context.Context, name string, opts ...Option) error {
	return c.act(ctx, http.MethodDelete, path("nodes", name), nil, opts)
}

// LeaveNode makes the node that answers leave the cluster; name must be its
// name, so that no other node leaves by mistake.
func (c *Client) LeaveNode(ctx context.Context, name string, opts ...Option) error {
	return c.act(ctx, http.MethodPost, path("nodes", name, "leave"), nil, opts)
}

// Cluster reads the cluster's status as the answering node sees it.
func (c *Client) Cluster(ctx context.Context, opts ...Option) (*ClusterStatus, error) {
	return get[ClusterStatus](ctx, c, path("cluster"), opts)
}

// TransferLeadership hands leadership to another node.
func (c *Client) TransferLeadership(ctx context.Context, to string, opts ...Option) (*Done, error) {
	return send[Done](ctx, c, http.MethodPost, path("cluster", "transfer-leadership"), TransferRequest{To: to}, opts)
}

// ListEvents lists the events that the answering node remembers, newest
// first; filter by type, group, instance or node with [WithFilter].
func (c *Client) ListEvents(ctx context.Context, opts ...Option) (*List[Event], error) {
	return get[List[Event]](ctx, c, path("events"), opts)
}

// Ready asks the endpoints in turn whether they are ready; an endpoint that is
// not ready is an error with its reasons.
func (c *Client) Ready(ctx context.Context) (*Readiness, error) {
	return get[Readiness](ctx, c, "/readyz", []Option{query("verbose", "true")})
}
