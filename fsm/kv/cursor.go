package kv

import "encoding/binary"

// A cursor reads fields off the front of b. The first fault sticks, and every
// read after it gives zero values, so callers look at fault once, at the end.
type cursor struct {
	b     []byte
	fault string
}

func (c *cursor) fail(why string) {
	if c.fault == "" {
		c.fault = why
	}
	c.b = nil
}

func (c *cursor) byte() byte {
	if len(c.b) == 0 {
		c.fail("it is cut short")
		return 0
	}
	v := c.b[0]
	c.b = c.b[1:]
	return v
}

// flag is a byte that must be 0 or 1.
func (c *cursor) flag() bool {
	v := c.byte()
	if v > 1 {
		c.fail("a flag is neither 0 nor 1")
	}
	return v == 1
}

func (c *cursor) uvarint() uint64 {
	v, n := binary.Uvarint(c.b)
	if n <= 0 {
		c.fail("a number is cut short or too long")
		return 0
	}
	c.b = c.b[n:]
	return v
}

func (c *cursor) varint() int64 {
	v, n := binary.Varint(c.b)
	if n <= 0 {
		c.fail("a number is cut short or too long")
		return 0
	}
	c.b = c.b[n:]
	return v
}

// bytes shares memory with what the cursor reads.
func (c *cursor) bytes() []byte {
	n := c.uvarint()
	if n > uint64(len(c.b)) {
		c.fail("a length says more than there is")
		return nil
	}
	v := c.b[:n:n]
	c.b = c.b[n:]
	return v
}

// count reads how many things follow. Each takes at least one byte, so a count
// above what is left is a fault, and nothing is allocated for it.
func (c *cursor) count() int {
	n := c.uvarint()
	if n > uint64(len(c.b)) {
		c.fail("a count says more than there is")
		return 0
	}
	return int(n)
}

// end fails when something is left, and tells the fault.
func (c *cursor) end() string {
	if c.fault == "" && len(c.b) > 0 {
		c.fail("something follows its end")
	}
	return c.fault
}

func appendBytes(dst, b []byte) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(b)))
	return append(dst, b...)
}

func appendString(dst []byte, s string) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(s)))
	return append(dst, s...)
}

func appendFlag(dst []byte, v bool) []byte {
	if v {
		return append(dst, 1)
	}
	return append(dst, 0)
}
