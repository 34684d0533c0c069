package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Names of the peers.
const (
	peerHAProxy = "haproxy"
	peerNginx   = "nginx"
	peerCaddy   = "caddy"
)

// haproxy is the peer that goals are measured by: Debian's, one thread.
type haproxy struct{ path string }

func (h *haproxy) name() string             { return peerHAProxy }
func (h *haproxy) version() (string, error) { return versionOf(h.path, "-v") }
func (h *haproxy) fronts() bool             { return false }
func (h *haproxy) lacks(setup) string       { return "" }

func (h *haproxy) start(ctx context.Context, dir string, f *fleet, s setup) (*front, error) {
	addr, list, err := before(ctx, f)
	if err != nil {
		return nil, err
	}
	socket, file := filepath.Join(dir, "haproxy.sock"), filepath.Join(dir, "haproxy.cfg")
	if err := os.WriteFile(file, []byte(haproxyConfig(addr, socket, list, s)), 0o600); err != nil {
		return nil, err
	}
	fr, err := runProxy(dir, peerHAProxy, h.path, addr, "-db", "-f", file)
	if err == nil && s.dynamic {
		fr.follow = (&haproxyServers{ask: func(cmd string) (string, error) { return askSocket(socket, cmd) }}).follow
		err = fr.follow(list)
	}
	return fr, err
}

// haproxyConfig is what both sides need to be fast, and nothing else: no log.
func haproxyConfig(addr, socket string, list []instance, s setup) string {
	var b strings.Builder
	fmt.Fprintf(&b, `global
  nbthread 1
  no strict-limits
  maxconn %d
  stats socket %s mode 600 level admin
defaults
  mode http
  timeout connect 2s
  timeout client 120s
  timeout server 30s
  timeout http-keep-alive 120s
  option http-keep-alive
  http-reuse always
  retries 3
frontend clients
  bind %s
  default_backend origins
backend origins
  balance roundrobin
  option forwardfor
  http-request set-header X-Forwarded-Proto http
  http-request set-header X-Forwarded-Host %%[req.hdr(Host)]
`, s.clients+64, socket, addr)
	if s.retry {
		b.WriteString("  option redispatch 1\n  retry-on conn-failure empty-response response-timeout\n")
	}
	if s.sticky {
		b.WriteString("  cookie ORIGIN insert indirect nocache\n")
	}
	if s.dynamic {
		return b.String() // servers come by the runtime API
	}
	for i, o := range list {
		fmt.Fprintf(&b, "  server o%d %s check inter 1s", i, o.Address)
		if s.sticky {
			fmt.Fprintf(&b, " cookie o%d", i)
		}
		b.WriteString("\n")
	}
	return b.String()
}

// haproxyServers keeps a backend's servers the same as the group's instances,
// as an operator's controller would.
type haproxyServers struct {
	ask  func(command string) (string, error)
	here map[string]bool // by instance, whether it gets requests
}

func (h *haproxyServers) follow(list []instance) error {
	if h.here == nil {
		h.here = map[string]bool{}
	}
	var errs []error
	for _, i := range list {
		server := "origins/i" + strings.ToLower(i.ID)
		on, known := h.here[i.ID]
		switch {
		case i.State == "running" && i.Health == "healthy" && !known: // before that it may not listen yet
			errs = append(errs, h.do("add server "+server+" "+i.Address), h.do("enable server "+server))
			h.here[i.ID] = true
		case i.State != "running" && on:
			errs = append(errs, h.do("set server "+server+" state maint"))
			h.here[i.ID] = false
		}
	}
	return errors.Join(errs...)
}

// do sends a command; what HAProxy says to it is an error, but for this.
func (h *haproxyServers) do(command string) error {
	text, err := h.ask(command)
	if text = strings.TrimSpace(text); err == nil && text != "" && !strings.Contains(text, "New server registered") {
		err = fmt.Errorf("haproxy: %s: %s", command, text)
	}
	return err
}

// askSocket sends one command to HAProxy's runtime API, which may not be there
// yet.
func askSocket(path, command string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), attemptDeadline)
	defer cancel()
	var c net.Conn
	err := poll(ctx, 5*time.Millisecond, func() bool {
		var err error
		c, err = net.Dial("unix", path)
		return err == nil
	})
	if err != nil {
		return "", fmt.Errorf("connect to %s: %w", path, err)
	}
	defer func() { _ = c.Close() }()
	if err := c.SetDeadline(time.Now().Add(attemptDeadline)); err != nil {
		return "", err
	}
	if _, err := io.WriteString(c, command+"\n"); err != nil {
		return "", err
	}
	text, err := io.ReadAll(io.LimitReader(c, maxAnswer))
	return string(text), err
}

// nginx is Debian's, one worker.
type nginx struct{ path string }

func (n *nginx) name() string             { return peerNginx }
func (n *nginx) version() (string, error) { return versionOf(n.path, "-v") }
func (n *nginx) fronts() bool             { return false }

func (n *nginx) lacks(s setup) string {
	switch {
	case s.sticky:
		return "this nginx has no sticky cookie"
	case s.dynamic:
		return "nginx takes other origins only by a reload"
	}
	return ""
}

func (n *nginx) start(ctx context.Context, dir string, f *fleet, s setup) (*front, error) {
	addr, list, err := before(ctx, f)
	if err != nil {
		return nil, err
	}
	file := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(file, []byte(nginxConfig(addr, dir, list, s)), 0o600); err != nil {
		return nil, err
	}
	return runProxy(dir, peerNginx, n.path, addr, "-p", dir, "-c", file, "-e", filepath.Join(dir, "error.log"))
}

func nginxConfig(addr, dir string, list []instance, s setup) string {
	// nginx closes idle connections when less than a sixteenth are unused.
	conns := s.clients + s.clients/4 + 256
	var servers, user strings.Builder
	for _, o := range list {
		fmt.Fprintf(&servers, "    server %s;\n", o.Address)
	}
	if os.Geteuid() == 0 {
		user.WriteString("user root;\n") // another one could not read the directory
	}
	return fmt.Sprintf(`%sdaemon off;
worker_processes 1;
worker_rlimit_nofile %d;
pid %s/nginx.pid;
events { worker_connections %d; }
http {
  access_log off;
  client_body_temp_path %s/body;
  proxy_temp_path %s/proxy;
  fastcgi_temp_path %s/fastcgi;
  uwsgi_temp_path %s/uwsgi;
  scgi_temp_path %s/scgi;
  keepalive_timeout 120s;
  keepalive_requests 1000000000;
  tcp_nodelay on;
  upstream origins {
%s    keepalive 128;
    keepalive_requests 1000000000;
  }
  server {
    listen %s;
    location / {
      proxy_pass http://origins;
      proxy_http_version 1.1;
      proxy_max_temp_file_size 0;
      proxy_set_header Connection "";
      proxy_set_header Host $host;
      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
      proxy_set_header X-Forwarded-Proto $scheme;
      proxy_set_header X-Forwarded-Host $http_host;
    }
  }
}
`, user.String(), conns+256, dir, conns, dir, dir, dir, dir, dir, servers.String(), addr)
}

// caddy is Debian's, with GOMAXPROCS=1.
type caddy struct{ path string }

func (c *caddy) name() string             { return peerCaddy }
func (c *caddy) version() (string, error) { return versionOf(c.path, "version") }
func (c *caddy) fronts() bool             { return false }

func (c *caddy) lacks(s setup) string {
	if s.dynamic {
		return "Caddy takes other origins only by a reload"
	}
	return ""
}

func (c *caddy) start(ctx context.Context, dir string, f *fleet, s setup) (*front, error) {
	addr, list, err := before(ctx, f)
	if err != nil {
		return nil, err
	}
	file := filepath.Join(dir, "Caddyfile")
	if err := os.WriteFile(file, []byte(caddyConfig(addr, list, s)), 0o600); err != nil {
		return nil, err
	}
	return runProxy(dir, peerCaddy, c.path, addr, "run", "--adapter", "caddyfile", "--config", file)
}

func caddyConfig(addr string, list []instance, s setup) string {
	policy, retry := "round_robin", ""
	if s.sticky {
		policy = "cookie origin secret"
	}
	if s.retry {
		retry = "    lb_try_duration 2s\n    lb_try_interval 1ms\n    fail_duration 5s\n"
	}
	var origins []string
	for _, o := range list {
		origins = append(origins, o.Address)
	}
	return fmt.Sprintf(`{
  admin off
  auto_https off
}
http://%s {
  bind 127.0.0.1
  reverse_proxy %s {
    lb_policy %s
%s    transport http {
      keepalive_idle_conns_per_host 128
    }
  }
}
`, addr, strings.Join(origins, " "), policy, retry)
}

// before is what each peer is told: where to listen, and the origins.
func before(ctx context.Context, f *fleet) (string, []instance, error) {
	addr, err := loopback()
	if err != nil {
		return "", nil, err
	}
	list, err := f.running(ctx)
	return addr, list, err
}
