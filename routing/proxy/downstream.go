package proxy

import (
	"net/netip"
	"time"

	"github.com/pacelinehq/paceline/routing/http1"
)

// party is who a request comes from, whatever it is spoken over.
type party struct {
	p       *Proxy
	clock   clock
	port    int
	peer    netip.Addr // the client
	proto   string     // "http" or "https"
	trusted bool       // the peer is a proxy whose forwarding fields are believed
}

func (c *party) now() time.Duration { return c.clock.now() }

// downstream is the client's side of an exchange: a connection of HTTP/1, or a
// stream of HTTP/2.
type downstream interface {
	// readSmall reads a body of a known length that is to be kept. It is
	// valid until the exchange ends.
	readSmall(n int64) ([]byte, error)
	// sendBody sends the body to an instance. gone says that an error is of
	// the client's side.
	sendBody(to *upConn, req *http1.Request, stall time.Duration, limit int64) (n int64, gone bool, err error)
	// interruptBody ends a sendBody that waits for the client.
	interruptBody()
	// interim passes a 1xx answer on.
	interim(x *exchange, c *upConn) error
	// reply passes the answer on; early says that the request's body has not
	// been read. It reports whether the client may send another request.
	reply(x *exchange, c *upConn, early bool) (again bool, err error)
	// upgrade passes a 101 answer on, and then everything in both directions.
	upgrade(x *exchange, c *upConn) error
	// answer sends an answer of the proxy itself, and reports whether the
	// client may send another request.
	answer(a answer) (again bool)
}
