//go:build unix

package proxy

import "golang.org/x/sys/unix"

// readable reports whether a read from a socket would not block: there are
// bytes, an end, or an error. It allocates nothing, as a look at the bytes
// themselves would.
func readable(fd uintptr) bool {
	p := [1]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	n, err := unix.Poll(p[:], 0)
	return err == nil && n > 0
}
