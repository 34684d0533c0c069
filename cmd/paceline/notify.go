package main

import (
	"net"
	"os"
)

// notify tells systemd about the service's state, as sd_notify(3) describes:
// one datagram to the socket named by the environment. Without systemd it does
// nothing.
func notify(state string) {
	addr := os.Getenv("NOTIFY_SOCKET")
	if addr == "" {
		return
	}
	conn, err := net.Dial("unixgram", addr)
	if err != nil {
		return
	}
	defer conn.Close() //nolint:errcheck // a datagram socket has nothing to flush
	_, _ = conn.Write([]byte(state))
}
