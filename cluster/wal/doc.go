// Package wal keeps a Raft log in segment files that are only ever appended
// to: one write and one fsync for any number of entries, where a B-tree in a
// file takes two of each and several pages. DESIGN.md says how it survives
// crashes.
package wal
