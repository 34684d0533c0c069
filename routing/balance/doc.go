// Package balance picks the instance that serves a request.
//
// A [Set] is an immutable set of endpoints with a policy. [Set.Pick] takes no
// lock, allocates nothing, and takes about 40 ns at a thousand endpoints; any
// number of goroutines may call it. What changes while requests run, the
// requests in flight and the latency, is in the [Load] of each endpoint, which
// outlives the sets that hold it.
//
// Policies:
//
//   - random: by weight.
//   - round_robin: each in turn, whatever its weight.
//   - weighted_round_robin: in turns, evenly interleaved, as many as the weight says.
//   - least_requests: the fewest requests in flight for its weight; exact in a
//     small set, the best of three random choices in a larger one.
//   - power_of_two: the better of two random choices, by requests in flight.
//   - peak_ewma: the better of two random choices, by latency times requests in
//     flight.
//   - ip_hash, hash: by the request's hash, so that equal hashes keep to an
//     endpoint, and as few as possible move when the set changes. Both are the
//     same here; they differ in what the caller hashes.
//
// Random choices are drawn by weight, and the first one wins a tie: without
// load, the load-aware policies share by weight as well.
//
// A set can prefer the endpoints of its own zone, give new endpoints a share
// that grows, and bound the load that hashing puts on one endpoint.
package balance
