package main

import (
	"encoding/binary"
	"net"
	"sync"
)

// closingListener accepts sockets that can begin the WebSocket closing
// handshake: opamp-go itself can only drop the TCP connection.
type closingListener struct {
	net.Listener
}

func (l closingListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &socket{Conn: c}, nil
}

type socket struct {
	net.Conn
	mu     sync.Mutex
	closed bool
}

// sendClose writes a Close frame. Nothing may follow it, so later writes
// (the answer to the peer's own Close frame is one) go nowhere.
func (s *socket) sendClose(code uint16) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return net.ErrClosed
	}
	s.closed = true
	_, err := s.Conn.Write(binary.BigEndian.AppendUint16([]byte{0x88, 0x02}, code))
	return err
}

func (s *socket) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return len(b), nil
	}
	return s.Conn.Write(b)
}
