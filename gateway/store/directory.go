package store

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
)

// directory is where the embedded engine keeps its files. It is ours by a marker file, which the process that uses it
// holds a lock on: two servers on the same files would ruin them, and the server itself doesn't look.
type directory struct {
	path string
	file *os.File
}

const (
	markerName = "SLUICE"
	markerText = "This is the store of Sluice, format 1. One process at a time uses it; nothing here is to be changed by hand.\n"
)

// lostAndFound is in the root of a file system of its own, which a store may well have.
const lostAndFound = "lost+found"

func openDirectory(path string) (*directory, error) {
	fail := func(format string, args ...any) (*directory, error) {
		return nil, fmt.Errorf("%w: store.dir: "+format, append([]any{ErrUnavailable}, args...)...)
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return fail("%w", err)
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, diskError(path, err)
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, diskError(path, err)
	}
	stranger, ours := "", false
	for _, e := range entries {
		switch e.Name() {
		case markerName:
			ours = true
		case lostAndFound:
		default:
			stranger = e.Name()
		}
	}
	if !ours && stranger != "" {
		return fail("%s is not empty and not a store of Sluice (it holds %q); name an empty directory or one that does not exist", path, stranger)
	}
	f, err := os.OpenFile(filepath.Join(path, markerName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, diskError(path, err)
	}
	d := &directory{path: path, file: f}
	if err := lock(f); err != nil {
		d.close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return fail("%s is in use by another process; each needs a directory of its own", path)
		}
		return nil, diskError(path, err)
	}
	text, err := io.ReadAll(io.LimitReader(f, int64(len(markerText))+1))
	if err == nil && len(text) == 0 { // new, or it was new when a crash came
		if _, err = f.WriteString(markerText); err == nil {
			err = f.Sync()
		}
	} else if err == nil && string(text) != markerText {
		d.close()
		return fail("%s is the store of another version, or not a store: its file %s says something else", path, markerName)
	}
	if err == nil {
		err = d.probe()
	}
	if err != nil {
		d.close()
		return nil, diskError(path, err)
	}
	return d, nil
}

// diskError says what is wrong with the directory, in an operator's words.
func diskError(path string, err error) error {
	class, why := ErrUnavailable, ""
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		class, why = ErrFull, "the disk is full"
	case errors.Is(err, syscall.EROFS):
		why = "the disk is read-only"
	case errors.Is(err, os.ErrPermission):
		why = "this user may not write there"
	case errors.Is(err, syscall.ENOTDIR):
		why = "it is not a directory"
	default:
		return fmt.Errorf("%w: store.dir: %s: %w", class, path, err)
	}
	return fmt.Errorf("%w: store.dir: %s: %s: %w", class, path, why, err)
}

// probeSize is more than the files' own granularity and what the engine writes at its start.
const probeSize = 256 << 10

// probe reports whether bytes can be written.
func (d *directory) probe() error {
	f, err := os.OpenFile(filepath.Join(d.path, "probe"), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(make([]byte, probeSize))
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// close also lets go of the lock.
func (d *directory) close() { d.file.Close() }
