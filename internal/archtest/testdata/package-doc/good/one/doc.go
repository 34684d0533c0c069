// Package one has its comment in doc.go.
package one
