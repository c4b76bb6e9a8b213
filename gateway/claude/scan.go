package claude

import "bytes"

// members walks the members of the JSON object in data, in order. It reports whether data is exactly one object, with
// optional white space around, whose keys and string values are well formed. Nested values are skipped by their
// brackets, not checked: run json.Valid first where that matters. A key that is written with an escape makes it return
// false, for then its bytes are not its name. yield returning false ends the walk, which then reports true.
func members(data []byte, yield func(key, value []byte) bool) bool {
	i := space(data, 0)
	if i >= len(data) || data[i] != '{' {
		return false
	}
	i = space(data, i+1)
	if i < len(data) && data[i] == '}' {
		return space(data, i+1) == len(data)
	}
	for i < len(data) && data[i] == '"' {
		end := skipString(data, i)
		if end < 0 {
			return false
		}
		key := data[i+1 : end-1]
		if bytes.IndexByte(key, '\\') >= 0 {
			return false
		}
		i = space(data, end)
		if i >= len(data) || data[i] != ':' {
			return false
		}
		start := space(data, i+1)
		if end = skipValue(data, start); end < 0 {
			return false
		}
		if !yield(key, data[start:end]) {
			return true
		}
		i = space(data, end)
		if i >= len(data) {
			return false
		}
		if data[i] == '}' {
			return space(data, i+1) == len(data)
		}
		if data[i] != ',' {
			return false
		}
		i = space(data, i+1)
	}
	return false
}

// elements walks the values of the JSON array in data, in order, until yield returns false. What is no array has none;
// as members, it checks no more than it must.
func elements(data []byte, yield func(value []byte) bool) {
	i := space(data, 0)
	if i >= len(data) || data[i] != '[' {
		return
	}
	for i = space(data, i+1); i < len(data) && data[i] != ']'; i = space(data, i+1) {
		end := skipValue(data, i)
		if end < 0 || !yield(data[i:end]) {
			return
		}
		if i = space(data, end); i >= len(data) || data[i] != ',' {
			return
		}
	}
}

// member returns the value of one key, nil if the object hasn't it. The last of several wins, as in most decoders.
func member(data []byte, key string) []byte {
	var found []byte
	members(data, func(k, v []byte) bool {
		if string(k) == key {
			found = v
		}
		return true
	})
	return found
}

func space(data []byte, i int) int {
	for i < len(data) && (data[i] == ' ' || data[i] == '\n' || data[i] == '\r' || data[i] == '\t') {
		i++
	}
	return i
}

// skipString returns the index after the string that begins at i, or -1 if there is no well-formed one.
func skipString(data []byte, i int) int {
	if i >= len(data) || data[i] != '"' {
		return -1
	}
	for i++; i < len(data); i++ {
		switch c := data[i]; {
		case c == '"':
			return i + 1
		case c < ' ':
			return -1
		case c == '\\':
			i++
			if i >= len(data) {
				return -1
			}
			switch data[i] {
			case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
			case 'u':
				if i+4 >= len(data) || !hex(data[i+1]) || !hex(data[i+2]) || !hex(data[i+3]) || !hex(data[i+4]) {
					return -1
				}
				i += 4
			default:
				return -1
			}
		}
	}
	return -1
}

func hex(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
}

// skipValue returns the index after the value that begins at i, or -1.
func skipValue(data []byte, i int) int {
	if i >= len(data) {
		return -1
	}
	switch data[i] {
	case '"':
		return skipString(data, i)
	case '{', '[':
		depth := 0
		for i < len(data) {
			switch data[i] {
			case '"':
				if i = skipString(data, i); i < 0 {
					return -1
				}
				continue
			case '{', '[':
				depth++
			case '}', ']':
				if depth--; depth == 0 {
					return i + 1
				}
			}
			i++
		}
		return -1
	}
	start := i
	for i < len(data) && data[i] != ',' && data[i] != '}' && data[i] != ']' && space(data, i) == i {
		i++
	}
	if i == start {
		return -1
	}
	return i
}
