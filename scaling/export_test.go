package scaling

// Remembered is how many instances are known to have been asked about, or are
// to be.
func (r *Reconciler) Remembered() int {
	d := r.doubts.Load()
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.known)
}
