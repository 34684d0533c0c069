package cluster_test

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"testing"
	"time"
)

// knock sends bytes to a peer port and returns what comes back until the other
// side closes or the time is up.
func knock(t *testing.T, addr string, msg []byte) []byte {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := conn.Close(); err != nil {
			t.Log(err)
		}
	}()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write(msg); err != nil {
		return nil
	}
	b, _ := io.ReadAll(conn) // a reset is as good as an end
	return b
}

func handshake(version, kind byte, h map[string]any) []byte {
	body, err := json.Marshal(h)
	if err != nil {
		panic(err)
	}
	return append(binary.BigEndian.AppendUint16([]byte{'P', 'L', version, kind}, uint16(len(body))), body...)
}

func TestPeerPortRefuses(t *testing.T) {
	f := running(t, 1)
	addr := f.nodes[0].cfg.PeerAddr
	silent := map[string][]byte{
		"http":            []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
		"no json":         {'P', 'L', 1, 'c', 0, 3, 'a', 'b', 'c'},
		"too long":        {'P', 'L', 1, 'c', 255, 255},
		"a frame too big": append(handshake(1, 'c', map[string]any{"f": "x"}), 255, 255, 255, 255),
	}
	for what, msg := range silent {
		if got := knock(t, addr, msg); len(got) > 0 && got[0] != 0 {
			t.Errorf("%s: it answers %q", what, got)
		}
	}
	spoken := map[string]struct {
		msg  []byte
		code byte
	}{
		"another cluster": {handshake(1, 'c', map[string]any{"f": "x", "c": "another"}), 1},
		"another name":    {handshake(1, 'r', map[string]any{"f": "x", "t": "n7"}), 2},
		"another version": {handshake(9, 'c', map[string]any{"f": "x"}), 3},
		"another kind":    {handshake(1, 'z', map[string]any{"f": "x"}), 3},
	}
	for what, c := range spoken {
		got := knock(t, addr, c.msg)
		if len(got) < 4 || got[0] != c.code {
			t.Errorf("%s: it answers %q", what, got)
		}
	}
	mustPut(t, f.nodes[0].Cluster, "after")
}

func TestPeerPortSurvivesNonsenseAfterTheHandshake(t *testing.T) {
	f := running(t, 1)
	for _, kind := range []byte{'r', 'c', 'w', 'u'} {
		msg := handshake(1, kind, map[string]any{"f": "x"})
		for i := range 64 {
			msg = append(msg, byte(i*37), byte(i), 0, 0)
		}
		conn, err := net.Dial("tcp", f.nodes[0].cfg.PeerAddr)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write(msg); err != nil {
			t.Fatal(err)
		}
		if err := conn.Close(); err != nil {
			t.Fatal(err)
		}
		mustPut(t, f.nodes[0].Cluster, fmt.Sprintf("after-%c", kind))
	}
}
