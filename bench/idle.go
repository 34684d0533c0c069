package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// idlers are keep-alive connections on which a request was answered, and that
// wait since.
type idlers struct {
	addr  string
	conns []net.Conn
}

// sourceOf is the loopback address that a connection comes from: one address
// has too few ports for many thousands.
func sourceOf(n int) net.IP { return net.IPv4(127, 0, 0, byte(1+n/idlePerSource)) }

// portLater has the system choose the port when it connects, and not when it
// binds the address: one that an earlier connection to somewhere else still waits
// with can be used then.
func portLater(_, _ string, c syscall.RawConn) error {
	var opt error
	err := c.Control(func(fd uintptr) { opt = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1) })
	return errors.Join(err, opt)
}

// openIdlers opens connections, one after the other.
func openIdlers(ctx context.Context, addr string, n int) (*idlers, error) {
	i := &idlers{addr: addr, conns: make([]net.Conn, 0, n)}
	for c := range n {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: sourceOf(c)}, Timeout: attemptDeadline, KeepAlive: -1, Control: portLater}
		conn, err := d.DialContext(ctx, "tcp4", addr)
		if err == nil {
			i.conns = append(i.conns, conn)
			err = i.ask(conn)
		}
		if err != nil {
			i.close()
			return nil, fmt.Errorf("idle connection %d: %w", c+1, err)
		}
	}
	return i, nil
}

// ask makes one request on a connection.
func (i *idlers) ask(c net.Conn) error {
	if err := c.SetDeadline(time.Now().Add(attemptDeadline)); err != nil {
		return err
	}
	if _, err := fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: %s\r\n\r\n", i.addr); err != nil {
		return err
	}
	res, err := http.ReadResponse(bufio.NewReaderSize(c, 1024), nil)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		return err
	}
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("status %d", res.StatusCode)
	}
	return nil
}

// lost counts the connections that do not answer any more.
func (i *idlers) lost() int {
	n := 0
	for _, c := range i.conns {
		if i.ask(c) != nil {
			n++
		}
	}
	return n
}

func (i *idlers) close() {
	for _, c := range i.conns {
		_ = c.Close()
	}
}
