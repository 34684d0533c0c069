package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// etcd is the peer, with its default settings.
type etcd struct {
	path string
	// clientsPerConn says how many clients share a connection; gRPC carries
	// many requests on one, and more connections cost the server more.
	clientsPerConn int
}

func (e *etcd) name() string   { return peer }
func (e *etcd) binary() string { return e.path }

func (e *etcd) procs(dir string) ([]*proc, []string, error) {
	ports, err := freePorts(2 * nodes)
	if err != nil {
		return nil, nil, err
	}
	var members, endpoints []string
	for i := range nodes {
		members = append(members, fmt.Sprintf("n%d=http://127.0.0.1:%d", i+1, ports[2*i+1]))
		endpoints = append(endpoints, fmt.Sprintf("127.0.0.1:%d", ports[2*i]))
	}
	var procs []*proc
	for i := range nodes {
		name := fmt.Sprintf("n%d", i+1)
		client, peer := "http://"+endpoints[i], fmt.Sprintf("http://127.0.0.1:%d", ports[2*i+1])
		procs = append(procs, &proc{binary: e.path, log: filepath.Join(dir, name+".log"), args: []string{
			"--name", name, "--data-dir", filepath.Join(dir, name), "--log-level", "error",
			"--listen-client-urls", client, "--advertise-client-urls", client,
			"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
			"--initial-cluster", strings.Join(members, ","), "--initial-cluster-state", "new",
		}})
	}
	return procs, endpoints, nil
}

func (e *etcd) ready(endpoint string) bool { return answersOK("http://" + endpoint + "/health") }

func (e *etcd) leader(ctx context.Context, endpoints []string) (int, error) {
	for _, ep := range endpoints {
		cli, err := e.client(ep)
		if err != nil {
			return 0, err
		}
		st, err := statusOf(ctx, cli, ep)
		_ = cli.Close()
		if err != nil || st.Leader == 0 {
			continue
		}
		for i, other := range endpoints {
			cli, err := e.client(other)
			if err != nil {
				return 0, err
			}
			o, err := statusOf(ctx, cli, other)
			_ = cli.Close()
			if err == nil && o.Header.MemberId == st.Leader {
				return i, nil
			}
		}
	}
	return 0, errors.New("etcd: no node knows a leader that answers")
}

func statusOf(ctx context.Context, cli *clientv3.Client, endpoint string) (*clientv3.StatusResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	return cli.Status(ctx, endpoint)
}

func (e *etcd) client(endpoint string) (*clientv3.Client, error) {
	return clientv3.New(clientv3.Config{
		Endpoints: []string{endpoint}, DialTimeout: attemptDeadline, Logger: zap.NewNop(),
	})
}

func (e *etcd) dial(endpoint string, clients int) (conn, error) {
	c := &etcdConn{}
	for range (clients + e.clientsPerConn - 1) / e.clientsPerConn {
		cli, err := e.client(endpoint)
		if err != nil {
			c.close()
			return nil, err
		}
		c.clients = append(c.clients, cli)
	}
	return c, nil
}

// etcdConn is some connections of etcd's own client.
type etcdConn struct{ clients []*clientv3.Client }

func (c *etcdConn) of(client int) *clientv3.Client { return c.clients[client/nodes%len(c.clients)] }

func (c *etcdConn) put(client int, key, value, _ string, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	_, err := c.of(client).Put(ctx, key, value)
	return err
}

func (c *etcdConn) get(client int, key string, strong bool, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	var opts []clientv3.OpOption
	if !strong {
		opts = append(opts, clientv3.WithSerializable())
	}
	res, err := c.of(client).Get(ctx, key, opts...)
	if err == nil && len(res.Kvs) != 1 {
		return errNotFound
	}
	return err
}

func (c *etcdConn) close() {
	for _, cli := range c.clients {
		_ = cli.Close()
	}
}

// errNotFound says that a key which was written is not there.
var errNotFound = errors.New("not found")

// answersOK reports whether a URL answers 200 within a moment.
func answersOK(url string) bool {
	cli := http.Client{Timeout: 500 * time.Millisecond, Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := cli.Get(url)
	if err != nil {
		return false
	}
	_ = res.Body.Close()
	return res.StatusCode == http.StatusOK
}
