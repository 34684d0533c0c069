package discovery_test

import (
	"fmt"
	"net"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/pacelinehq/paceline/fsm"
)

// dig asks as users do.
func TestDig(t *testing.T) {
	bin, err := exec.LookPath("dig")
	if err != nil {
		t.Skip("dig is not installed")
	}
	c := newCluster()
	c.Group("ten", nil)
	for n := range 10 {
		c.Run("ten", id(100+n), "n1", fmt.Sprintf("10.3.0.%d:80", n+1), fsm.Healthy)
	}
	s := serve(t, c)
	host, port, _ := net.SplitHostPort(s.address)
	dig := func(args ...string) string {
		out, err := exec.CommandContext(t.Context(), bin, append([]string{"@" + host, "-p", port, "+tries=1", "+time=10"}, args...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("dig %v: %v\n%s", args, err, out)
		}
		return string(out)
	}
	sorted := func(text string) string {
		list := strings.Fields(text)
		slices.Sort(list)
		return strings.Join(list, " ")
	}
	for args, want := range map[string]string{
		"+short web.paceline A": "10.1.0.1", "+short web.paceline AAAA": "2001:db8::2", "+short n1.node.paceline": "10.0.0.1",
		"+short +tcp web.paceline": "10.1.0.1", "+short paceline NS": "n1.node.paceline.", "+short web.paceline TXT": "",
	} {
		if got := sorted(dig(strings.Fields(args)...)); got != want {
			t.Errorf("dig %s: %q, want %q", args, got, want)
		}
	}
	for args, marks := range map[string][]string{
		"ten.paceline SRV":                        {"ANSWER: 10,", "status: NOERROR", "flags: qr aa", "SERVER: 127.0.0.1#" + port + "(127.0.0.1) (UDP)"},
		"+noedns ten.paceline SRV":                {"Truncated, retrying in TCP mode", "ANSWER: 10,", "(TCP)"},
		"+bufsize=512 ten.paceline SRV":           {"Truncated, retrying in TCP mode", "ANSWER: 10,", "(TCP)"},
		"+bufsize=512 +ignore ten.paceline SRV":   {"flags: qr aa tc"},
		"+tcp _ten._tcp.paceline SRV":             {"ANSWER: 10,", "ADDITIONAL: 11", "(TCP)"},
		"none.paceline":                           {"status: NXDOMAIN", "AUTHORITY: 1"},
		"web.paceline MX":                         {"status: NOERROR", "ANSWER: 0, AUTHORITY: 1"},
		"example.com":                             {"status: REFUSED"},
		"+edns=1 +noednsneg web.paceline":         {"status: BADVERS"},
		"+cookie +subnet=10.0.0.0/8 web.paceline": {"ANSWER: 1,"},
		"-c CH version.bind TXT":                  {"status: REFUSED"},
	} {
		out := dig(strings.Fields(args)...)
		for _, mark := range marks {
			if !strings.Contains(out, mark) {
				t.Errorf("dig %s: no %q in\n%s", args, mark, out)
			}
		}
	}
}
