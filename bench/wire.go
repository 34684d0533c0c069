package main

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

var (
	errHung     = errors.New("no answer in time")
	errCut      = errors.New("the connection ended before the answer")
	errUnframed = errors.New("an answer without Content-Length")
)

// epollWire is HTTP/1.1 over one epoll and one thread: with a goroutine for
// each connection the generator would cost more than the proxies, and Go's
// timers are late by up to a millisecond, which is what is to be measured.
type epollWire struct {
	addr     unix.SockaddrInet4
	requests [][]byte // by connection
	socks    []socket
	byFD     map[int32]int
	epoll    int
	timer    int
	events   []unix.EpollEvent
	scratch  []byte
}

// socket is one connection; without a descriptor it is closed.
type socket struct {
	fd   int
	busy bool
	buf  []byte
	got  int // bytes of the answer, of which buf holds the first
	head responseHead
}

// newEpollWire makes connections to one address; each asks for the path that
// pathOf says.
func newEpollWire(addr string, conns int, pathOf func(conn int) string) (*epollWire, error) {
	ap, err := netip.ParseAddrPort(addr)
	if err != nil || !ap.Addr().Is4() {
		return nil, fmt.Errorf("%q is not an IPv4 address and port", addr)
	}
	w := &epollWire{
		addr:  unix.SockaddrInet4{Port: int(ap.Port()), Addr: ap.Addr().As4()},
		socks: make([]socket, conns), byFD: map[int32]int{},
		events: make([]unix.EpollEvent, conns+1), scratch: make([]byte, 64<<10),
	}
	for c := range conns {
		w.socks[c] = socket{fd: -1, buf: make([]byte, maxHeadBytes)}
		w.requests = append(w.requests, fmt.Appendf(nil, "GET %s HTTP/1.1\r\nHost: %s\r\n\r\n", pathOf(c), addr))
	}
	if w.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, err
	}
	if w.timer, err = unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK); err != nil {
		_ = unix.Close(w.epoll)
		return nil, err
	}
	return w, w.watch(w.timer)
}

func (w *epollWire) watch(fd int) error {
	return unix.EpollCtl(w.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)})
}

func (w *epollWire) close() {
	for c := range w.socks {
		w.drop(c)
	}
	_ = unix.Close(w.timer)
	_ = unix.Close(w.epoll)
}

func (w *epollWire) drop(c int) {
	s := &w.socks[c]
	if s.fd >= 0 {
		delete(w.byFD, int32(s.fd))
		_ = unix.Close(s.fd)
	}
	s.fd, s.busy = -1, false
}

// open connects; on loopback that does not wait.
func (w *epollWire) open(c int) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	err = unix.Connect(fd, &w.addr)
	if err == nil {
		err = errors.Join(unix.SetNonblock(fd, true), unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1), w.watch(fd))
	}
	if err != nil {
		_ = unix.Close(fd)
		return fmt.Errorf("connect: %w", err)
	}
	w.socks[c].fd = fd
	w.byFD[int32(fd)] = c
	return nil
}

func (w *epollWire) send(c int) error {
	s := &w.socks[c]
	stale := s.fd >= 0
	for {
		if s.fd < 0 {
			if err := w.open(c); err != nil {
				return err
			}
		}
		_, err := unix.Write(s.fd, w.requests[c])
		if err == nil {
			break
		}
		w.drop(c)
		// An idle connection may be ended by the server at any time; a
		// client that finds it so opens another.
		if !stale {
			return fmt.Errorf("send: %w", err)
		}
		stale = false
	}
	s.busy, s.got, s.head = true, 0, responseHead{}
	return nil
}

func (w *epollWire) wait(until time.Time, to []answer) ([]answer, error) {
	left := time.Until(until)
	millis := int(left / time.Millisecond)
	switch {
	case left <= 0:
		millis = 0
	case millis < 2: // epoll counts in milliseconds, the timer does not
		millis = 2
		spec := unix.ItimerSpec{Value: unix.NsecToTimespec(int64(left))}
		if err := unix.TimerfdSettime(w.timer, 0, &spec, nil); err != nil {
			return to, err
		}
	}
	n, err := unix.EpollWait(w.epoll, w.events, millis)
	if err != nil && !errors.Is(err, unix.EINTR) {
		return to, err
	}
	for _, e := range w.events[:max(n, 0)] {
		if int(e.Fd) == w.timer {
			var ticks [8]byte
			_, _ = unix.Read(w.timer, ticks[:]) // a later setting may have reset it
			continue
		}
		if c, ok := w.byFD[e.Fd]; ok {
			if done, err := w.receive(c); done {
				to = append(to, answer{c, err})
			}
		}
	}
	return to, nil
}

// receive reads what has arrived, and reports whether the request has ended.
func (w *epollWire) receive(c int) (done bool, err error) {
	s := &w.socks[c]
	room := s.buf[min(s.got, len(s.buf)):]
	if s.head.body > 0 {
		room = w.scratch // of the body only the length matters
	}
	n, err := unix.Read(s.fd, room)
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
		return false, nil
	}
	if err != nil || n <= 0 {
		done = s.busy
		w.drop(c)
		return done, errCut
	}
	if !s.busy { // bytes that nobody asked for
		w.drop(c)
		return false, nil
	}
	s.got += n
	if s.head.body == 0 {
		if s.head, err = parseHead(s.buf[:s.got]); err != nil {
			w.drop(c)
			return true, err
		}
	}
	if s.head.body == 0 || s.got < s.head.body+s.head.length {
		return false, nil
	}
	s.busy = false
	if s.head.close || s.got > s.head.body+s.head.length {
		w.drop(c)
	}
	if s.head.status != 200 {
		return true, fmt.Errorf("status %d", s.head.status)
	}
	return true, nil
}

// responseHead is what a generator has to know of an answer.
type responseHead struct {
	status int
	body   int // where it begins; 0 while the head is not complete
	length int
	close  bool
}

// parseHead reads the head of an answer that has a length.
func parseHead(b []byte) (h responseHead, err error) {
	end := bytes.Index(b, []byte("\r\n\r\n"))
	if end < 0 {
		if len(b) >= maxHeadBytes {
			return h, fmt.Errorf("the head of an answer has more than %d bytes", maxHeadBytes)
		}
		return h, nil
	}
	lines := bytes.Split(b[:end], []byte("\r\n"))
	first := bytes.Fields(lines[0])
	if len(first) < 2 || !bytes.HasPrefix(first[0], []byte("HTTP/1.")) {
		return h, fmt.Errorf("%q is not an answer", lines[0])
	}
	if h.status, err = strconv.Atoi(string(first[1])); err != nil {
		return h, fmt.Errorf("%q is not an answer", lines[0])
	}
	h.length = -1
	for _, line := range lines[1:] {
		name, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimSpace(value)
		switch {
		case bytes.EqualFold(name, []byte("Content-Length")):
			if h.length, err = strconv.Atoi(string(value)); err != nil || h.length < 0 {
				return h, fmt.Errorf("content length %q", value)
			}
		case bytes.EqualFold(name, []byte("Connection")):
			h.close = bytes.EqualFold(value, []byte("close"))
		}
	}
	if h.length < 0 {
		return h, errUnframed
	}
	h.body = end + 4
	return h, nil
}
