package agent

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"syscall"

	"google.golang.org/protobuf/encoding/protowire"
)

// A grpc check is the unary call grpc.health.v1.Health/Check over unencrypted
// HTTP/2. It is spoken by hand: two messages of one field each are not worth
// the megabytes that a gRPC library adds to the binary.
const (
	grpcCheckPath = "/grpc.health.v1.Health/Check"
	// grpcHeader is the length of what stands before a message: whether it is
	// compressed, and its size.
	grpcHeader = 5
	// maxGRPCAnswer is how much of an answer is read; a good one has 7 bytes.
	maxGRPCAnswer = 4 << 10
	// maxGRPCMessage is how much of a server's own words is told.
	maxGRPCMessage = 100
	// healthField is the number of the only field of both messages.
	healthField = 1
	// servingStatus is the one answer that is healthy.
	servingStatus = 1
)

// The statuses of a call that are told apart.
const (
	grpcOK            = "0"
	grpcNotFound      = "5"
	grpcUnimplemented = "12"
)

// grpcHealths are the names of what a health service may answer.
var grpcHealths = map[uint64]string{0: "UNKNOWN", 2: "NOT_SERVING", 3: "SERVICE_UNKNOWN"}

// newGRPCClient speaks HTTP/2 from the first byte: whoever does not is no gRPC
// server.
func newGRPCClient() *http.Client {
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Client{
		Transport: &http.Transport{
			Proxy: nil, Protocols: protocols, DisableKeepAlives: true, DisableCompression: true,
			MaxResponseHeaderBytes: maxProbeHeader,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

func (p *prober) grpc(ctx context.Context, addr, service string) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+addr+grpcCheckPath, bytes.NewReader(healthRequest(service)))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/grpc")
	r.Header.Set("Te", "trailers")
	r.Header.Set("User-Agent", userAgent)
	resp, err := p.h2c.Do(r)
	if err != nil {
		return notGRPC(brief(ctx, err))
	}
	defer resp.Body.Close() //nolint:errcheck // only read
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("answered %s, which is not gRPC", resp.Status)
	}
	if t := resp.Header.Get("Content-Type"); !strings.HasPrefix(t, "application/grpc") {
		return fmt.Errorf("answered %q, which is not gRPC", clip(t, maxGRPCMessage))
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxGRPCAnswer+1))
	if err != nil {
		return brief(ctx, err)
	}
	if len(body) > maxGRPCAnswer {
		return fmt.Errorf("answered more than %d bytes", maxGRPCAnswer)
	}
	if err := callStatus(resp, service); err != nil {
		return err
	}
	return servingOrNot(body, service)
}

// healthRequest is a framed HealthCheckRequest.
func healthRequest(service string) []byte {
	var message []byte
	if service != "" {
		message = protowire.AppendTag(message, healthField, protowire.BytesType)
		message = protowire.AppendString(message, service)
	}
	frame := make([]byte, grpcHeader, grpcHeader+len(message))
	binary.BigEndian.PutUint32(frame[1:], uint32(len(message))) //nolint:gosec // a template's service is short
	return append(frame, message...)
}

// callStatus is how the call itself went. An answer without a message has its
// status among the headers, any other after the body.
func callStatus(resp *http.Response, service string) error {
	from := resp.Trailer
	if from.Get("Grpc-Status") == "" {
		from = resp.Header
	}
	switch status := from.Get("Grpc-Status"); status {
	case grpcOK:
		return nil
	case "":
		return errors.New("answered without a gRPC status")
	case grpcUnimplemented:
		return errors.New("has no gRPC health service (grpc.health.v1)")
	case grpcNotFound:
		return unknownService(service)
	default:
		text := from.Get("Grpc-Message")
		if plain, err := url.PathUnescape(text); err == nil {
			text = plain
		}
		return fmt.Errorf("answered gRPC status %s: %s", clip(status, maxGRPCMessage), clip(strings.ToValidUTF8(text, "?"), maxGRPCMessage))
	}
}

func unknownService(service string) error {
	return fmt.Errorf("its gRPC health service does not know the service %q", service)
}

// servingOrNot reads the one message of an answer, a framed
// HealthCheckResponse.
func servingOrNot(body []byte, service string) error {
	if len(body) < grpcHeader || body[0] != 0 || int(binary.BigEndian.Uint32(body[1:grpcHeader])) != len(body)-grpcHeader {
		return errors.New("answered what is not one plain gRPC message")
	}
	status := uint64(0) // as protobuf has it: a field that is not there is 0
	for rest := body[grpcHeader:]; len(rest) > 0; {
		number, typ, n := protowire.ConsumeTag(rest)
		if n < 0 {
			return errors.New("answered what is not a HealthCheckResponse")
		}
		rest = rest[n:]
		if n = protowire.ConsumeFieldValue(number, typ, rest); n < 0 {
			return errors.New("answered what is not a HealthCheckResponse")
		}
		if number == healthField && typ == protowire.VarintType {
			status, _ = protowire.ConsumeVarint(rest)
		}
		rest = rest[n:]
	}
	switch name, known := grpcHealths[status]; {
	case status == servingStatus:
		return nil
	case name == "SERVICE_UNKNOWN":
		return unknownService(service)
	case known:
		return errors.New("answered " + name)
	}
	return fmt.Errorf("answered the unknown health %d", status)
}

// notGRPC says in plain words that the other side speaks something else. The first
// bytes of an answer in HTTP/1, read as the size of a frame, are huge; but a server
// that does not like what it has read may have closed the connection before its
// answer is seen.
func notGRPC(err error) error {
	text := err.Error()
	seen := func(what string) bool { return strings.Contains(text, what) }
	closed := errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, io.ErrUnexpectedEOF)
	if closed || seen("frame too large") || seen("HTTP/1") || seen("client conn could not be established") {
		return errors.New("does not speak HTTP/2, which gRPC needs, or broke the connection off")
	}
	return err
}
