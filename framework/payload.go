package framework

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/diarchy/diarchy/fsm"
)

// A payload is the framework's snapshot of a group: the same bytes on every
// engine, which ships it in an envelope of its own and never looks inside.
//
//	8 bytes   magic "DIARCHYP"
//	2 bytes   format version, little-endian (1)
//	chunks    4 bytes length, 4 bytes CRC-32C of what follows, then the bytes
//	end       4 bytes zero, 4 bytes CRC-32C over all chunk checksums
//
// The chunks together are one zstd stream of: 4 bytes length and the
// description (payloadInfo), then the machine's own bytes to the end.
const (
	payloadMagic   = "DIARCHYP"
	payloadVersion = 1
	chunkBytes     = 256 << 10
	infoBytesMax   = 1 << 30
)

// DamagedError says that stored bytes are not what was written.
type DamagedError struct{ What string }

func (e *DamagedError) Error() string { return "damaged: " + e.What }

// payloadInfo is everything of a group's replicated state but the machine's.
type payloadInfo struct {
	number                      uint64
	time                        int64
	history                     UUID
	machineName, machineVersion string
	digest                      []byte // reserved for digests of the state
	sessions                    []byte
}

func (p *payloadInfo) append(b []byte) []byte {
	b = binary.AppendUvarint(b, p.number)
	b = binary.AppendUvarint(b, uint64(p.time))
	b = append(b, p.history[:]...)
	b = appendBytes(b, []byte(p.machineName))
	b = appendBytes(b, []byte(p.machineVersion))
	b = appendBytes(b, p.digest)
	return appendBytes(b, p.sessions)
}

func (p *payloadInfo) read(b []byte) error {
	d := decoder{b: b}
	p.number, p.time = d.uvarint(), int64(d.uvarint())
	copy(p.history[:], d.take(16))
	p.machineName, p.machineVersion = string(d.bytes()), string(d.bytes())
	p.digest, p.sessions = bytes.Clone(d.bytes()), bytes.Clone(d.bytes())
	if d.bad || len(d.b) != 0 {
		return &DamagedError{"the snapshot's description"}
	}
	return nil
}

// payloadWriter writes a captured state; it is the io.WriterTo that engines get.
type payloadWriter struct {
	ctx         context.Context
	info        payloadInfo
	machine     fsm.Snapshot
	bytesPerSec int64
	progress    func(written int64)
}

// WriteTo writes the payload. It ends early with ctx.
func (p *payloadWriter) WriteTo(w io.Writer) (int64, error) {
	out := &pacedWriter{ctx: p.ctx, w: w, perSec: p.bytesPerSec, progress: p.progress, start: time.Now()}
	head := binary.LittleEndian.AppendUint16([]byte(payloadMagic), payloadVersion)
	if _, err := out.Write(head); err != nil {
		return out.written, err
	}
	chunks := &sealWriter{w: out, buf: make([]byte, 0, chunkBytes)}
	// One encoder goroutine: equal states must give equal bytes.
	enc, err := zstd.NewWriter(chunks, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedFastest))
	if err != nil {
		return out.written, err
	}
	defer enc.Close()
	info := p.info.append(nil)
	if _, err = enc.Write(binary.LittleEndian.AppendUint32(nil, uint32(len(info)))); err == nil {
		_, err = enc.Write(info)
	}
	if err == nil {
		_, err = p.machine.WriteTo(enc)
	}
	if err != nil {
		return out.written, fmt.Errorf("write snapshot: %w", err)
	}
	if err = enc.Close(); err == nil {
		err = chunks.finish()
	}
	return out.written, err
}

// pacedWriter counts, keeps to a rate and ends with its context.
type pacedWriter struct {
	ctx      context.Context
	w        io.Writer
	perSec   int64
	written  int64
	progress func(int64)
	start    time.Time
}

func (p *pacedWriter) Write(b []byte) (int, error) {
	if err := p.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := p.w.Write(b)
	p.written += int64(n)
	if p.progress != nil {
		p.progress(p.written)
	}
	if err != nil || p.perSec <= 0 {
		return n, err
	}
	due := time.Duration(float64(p.written) / float64(p.perSec) * float64(time.Second))
	if wait := due - time.Since(p.start); wait > 0 {
		select {
		case <-time.After(wait):
		case <-p.ctx.Done():
			return n, p.ctx.Err()
		}
	}
	return n, nil
}

type sealWriter struct {
	w   io.Writer
	buf []byte
	sum uint32
}

func (c *sealWriter) Write(b []byte) (int, error) {
	n := len(b)
	for len(b) > 0 {
		k := min(len(b), chunkBytes-len(c.buf))
		c.buf = append(c.buf, b[:k]...)
		b = b[k:]
		if len(c.buf) == chunkBytes {
			if err := c.flush(); err != nil {
				return n - len(b), err
			}
		}
	}
	return n, nil
}

func (c *sealWriter) flush() error {
	if len(c.buf) == 0 {
		return nil
	}
	var head [8]byte
	crc := crc32.Checksum(c.buf, castagnoli)
	binary.LittleEndian.PutUint32(head[:], uint32(len(c.buf)))
	binary.LittleEndian.PutUint32(head[4:], crc)
	c.sum = crc32.Update(c.sum, castagnoli, head[4:])
	if _, err := c.w.Write(head[:]); err != nil {
		return err
	}
	_, err := c.w.Write(c.buf)
	c.buf = c.buf[:0]
	return err
}

func (c *sealWriter) finish() error {
	if err := c.flush(); err != nil {
		return err
	}
	var end [8]byte
	binary.LittleEndian.PutUint32(end[4:], c.sum)
	_, err := c.w.Write(end[:])
	return err
}

// payloadReader reads a payload: info at once, the machine's bytes by Read.
// Damage is an error wherever it is met, also a missing end.
type payloadReader struct {
	info   payloadInfo
	chunks *sealReader
	dec    *zstd.Decoder
}

func openPayload(r io.Reader) (*payloadReader, error) {
	br := bufio.NewReaderSize(r, 64<<10)
	var head [len(payloadMagic) + 2]byte
	if _, err := io.ReadFull(br, head[:]); err != nil {
		return nil, &DamagedError{fmt.Sprintf("snapshot cut short in its head (%v)", err)}
	}
	if string(head[:len(payloadMagic)]) != payloadMagic {
		return nil, &DamagedError{"this is not a snapshot of a group"}
	}
	if v := binary.LittleEndian.Uint16(head[len(payloadMagic):]); v != payloadVersion {
		return nil, fmt.Errorf("snapshot of format %d; this version reads format %d", v, payloadVersion)
	}
	p := &payloadReader{chunks: &sealReader{r: br}}
	var err error
	p.dec, err = zstd.NewReader(p.chunks, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(64<<20),
		zstd.WithDecoderLowmem(true))
	if err != nil {
		return nil, err
	}
	if err := p.readInfo(); err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

func (p *payloadReader) readInfo() error {
	var size [4]byte
	if _, err := io.ReadFull(p, size[:]); err != nil {
		return damaged(err)
	}
	n := binary.LittleEndian.Uint32(size[:])
	if n > infoBytesMax {
		return &DamagedError{"the snapshot's description"}
	}
	// Grown by what really arrives: a damaged length allocates nothing.
	var b bytes.Buffer
	if _, err := io.CopyN(&b, p, int64(n)); err != nil {
		return damaged(err)
	}
	return p.info.read(b.Bytes())
}

// Read gives the machine's bytes.
func (p *payloadReader) Read(b []byte) (int, error) {
	n, err := p.dec.Read(b)
	if err == nil || err == io.EOF && p.chunks.ended {
		return n, err
	}
	if err == io.EOF { // the zstd stream is over, the chunks' end not yet read
		if _, e := p.chunks.Read(nil); e != nil && e != io.EOF {
			return n, e
		}
		if !p.chunks.ended {
			return n, &DamagedError{"bytes after the end of the snapshot"}
		}
		return n, io.EOF
	}
	return n, damaged(err)
}

// Close frees the reader; it does not close what it reads from.
func (p *payloadReader) Close() { p.dec.Close() }

func damaged(err error) error {
	var d *DamagedError
	if errors.As(err, &d) {
		return d
	}
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return &DamagedError{"snapshot cut short"}
	}
	return &DamagedError{fmt.Sprintf("snapshot (%v)", err)}
}

type sealReader struct {
	r     io.Reader
	buf   []byte
	rest  []byte
	sum   uint32
	ended bool
}

// Read gives verified bytes only.
func (c *sealReader) Read(b []byte) (int, error) {
	for len(c.rest) == 0 {
		if c.ended {
			return 0, io.EOF
		}
		if err := c.next(); err != nil {
			return 0, err
		}
	}
	if len(b) == 0 {
		return 0, nil
	}
	n := copy(b, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

func (c *sealReader) next() error {
	var head [8]byte
	if _, err := io.ReadFull(c.r, head[:]); err != nil {
		return readFault(err)
	}
	n, crc := binary.LittleEndian.Uint32(head[:]), binary.LittleEndian.Uint32(head[4:])
	if n == 0 {
		if crc != c.sum {
			return &DamagedError{"a chunk of the snapshot is missing"}
		}
		c.ended = true
		return nil
	}
	if n > chunkBytes {
		return &DamagedError{"a chunk's length in the snapshot"}
	}
	if c.buf == nil {
		c.buf = make([]byte, chunkBytes)
	}
	if _, err := io.ReadFull(c.r, c.buf[:n]); err != nil {
		return readFault(err)
	}
	if crc32.Checksum(c.buf[:n], castagnoli) != crc {
		return &DamagedError{"a chunk of the snapshot has another checksum"}
	}
	c.sum = crc32.Update(c.sum, castagnoli, head[4:])
	c.rest = c.buf[:n]
	return nil
}

// readFault tells an early end, which is damage, from a failing source.
func readFault(err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return &DamagedError{"snapshot cut short"}
	}
	return fmt.Errorf("read snapshot: %w", err)
}
