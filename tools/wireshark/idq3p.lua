-- IDQ3P, key extraction over UDP: one key per datagram, 29 bytes asked and 62 bytes answered.
--
-- For Wireshark and tshark 3.0 or later. To install it, copy this file into the folder that
-- "About Wireshark, Folders, Personal Lua Plugins" names, or run
--
--     tshark -X lua_script:idq3p.lua -r capture.pcapng -V
--
-- Another port than 5323, and the byte order of ids, are preferences of the protocol:
--
--     tshark -X lua_script:idq3p.lua -o idq3p.port:20003 -o idq3p.big_endian:TRUE ...
--
-- A key in a response is a secret, and stands in the capture in clear, as it stood on the wire.

local REQUEST_LEN, RESPONSE_LEN = 29, 62
local KEY_OFFSET, KEY_FIELD = 15, 32

local idq3p = Proto("idq3p", "IDQ3P key extraction")

idq3p.prefs.port = Pref.uint("UDP port", 5323, "The port of the key extraction service")
idq3p.prefs.big_endian =
  Pref.bool("Ids most significant byte first", false, "How key ids and request ids lie in a datagram")

local types = { [0] = "Request", [1] = "Response" }
local statuses = {
  [0] = "Success",
  [1] = "No more keys",
  [2] = "Key id does not exist",
  [3] = "Wrong key length",
  [4] = "Invalid request",
}

local f = {
  kind = ProtoField.uint8("idq3p.type", "Type", base.DEC, types),
  key_id = ProtoField.uint64("idq3p.key_id", "Key id", base.HEX),
  new_key = ProtoField.bool("idq3p.new_key", "A new key is asked for"),
  key_length = ProtoField.uint8("idq3p.key_length", "Key length in octets"),
  request_id = ProtoField.uint32("idq3p.request_id", "Request id", base.DEC),
  status = ProtoField.uint8("idq3p.status", "Status", base.DEC, statuses),
  key = ProtoField.bytes("idq3p.key", "Key"),
  padding = ProtoField.bytes("idq3p.padding", "Unused"),
  device = ProtoField.uint8("idq3p.device", "Requesting device"),
  reserved = ProtoField.bytes("idq3p.reserved", "Reserved"),
  crc = ProtoField.uint32("idq3p.crc", "CRC-32", base.HEX),
  crc_good = ProtoField.bool("idq3p.crc_good", "CRC is right"),
  request_in = ProtoField.framenum("idq3p.request_in", "Request in frame", base.NONE, frametype.REQUEST),
  response_in = ProtoField.framenum("idq3p.response_in", "Response in frame", base.NONE, frametype.RESPONSE),
  time = ProtoField.relative_time("idq3p.time", "Time from the request"),
}
for _, field in pairs(f) do
  table.insert(idq3p.fields, field)
end

local e = {
  crc = ProtoExpert.new("idq3p.crc_bad", "The CRC does not fit the datagram", expert.group.CHECKSUM, expert.severity.ERROR),
  refused = ProtoExpert.new("idq3p.refused", "No key was given", expert.group.RESPONSE_CODE, expert.severity.WARN),
  length = ProtoExpert.new("idq3p.length_bad", "A request has 29 bytes, a response 62", expert.group.MALFORMED, expert.severity.ERROR),
}
idq3p.experts = { e.crc, e.refused, e.length }

-- CRC-32/BZIP2: polynomial 0x04C11DB7, not reflected, all ones at first and inverted at the end. In arithmetic alone,
-- so that it runs on every Lua that Wireshark has had: 5.1 and 5.2 have no operators on bits, 5.4 no bit32.
local function xor32(a, b)
  local result, place = 0, 1
  while a > 0 or b > 0 do
    local x, y = a % 2, b % 2
    if x ~= y then
      result = result + place
    end
    a, b, place = (a - x) / 2, (b - y) / 2, place * 2
  end
  return result
end

local TABLE = {}
for byte = 0, 255 do
  local crc = byte * 0x1000000
  for _ = 1, 8 do
    local top = crc >= 0x80000000
    crc = (crc * 2) % 0x100000000
    if top then
      crc = xor32(crc, 0x04C11DB7)
    end
  end
  TABLE[byte] = crc
end

local function crc32(bytes, length)
  local crc = 0xFFFFFFFF
  for at = 0, length - 1 do
    local top = math.floor(crc / 0x1000000)
    crc = xor32((crc * 0x100) % 0x100000000, TABLE[xor32(top, bytes:get_index(at))])
  end
  return 0xFFFFFFFF - crc
end

-- Ids consist of words of 32 bits: the high one first in either order, only the bytes within each turn.
local function word(range)
  if idq3p.prefs.big_endian then
    return range:uint()
  end
  return range:le_uint()
end

-- Which frame asked and which answered, by both addresses and the request id.
local asked, answered = {}, {}

function idq3p.init()
  asked, answered = {}, {}
end

local function conversation(pinfo, is_response, request_id)
  local client, client_port, server = pinfo.src, pinfo.src_port, pinfo.dst
  if is_response then
    client, client_port, server = pinfo.dst, pinfo.dst_port, pinfo.src
  end
  return table.concat({ tostring(client), client_port, tostring(server), request_id }, " ")
end

local function link_frames(pinfo, tree, is_response, request_id)
  local name = conversation(pinfo, is_response, request_id)
  if not pinfo.visited then
    if is_response then
      local request = asked[name]
      if request then
        answered[request.number] = pinfo.number
        answered[-pinfo.number] = request
      end
    else
      asked[name] = { number = pinfo.number, time = pinfo.abs_ts }
    end
  end
  if is_response then
    local request = answered[-pinfo.number]
    if request then
      tree:add(f.request_in, request.number):set_generated()
      local span = pinfo.abs_ts - request.time
      local whole = math.floor(span)
      tree:add(f.time, NSTime.new(whole, math.floor((span - whole) * 1e9))):set_generated()
    end
  elseif answered[pinfo.number] then
    tree:add(f.response_in, answered[pinfo.number]):set_generated()
  end
end

local function add_crc(tree, buffer, length)
  local at = length - 4
  local range = buffer(at, 4)
  local item = tree:add(f.crc, range)
  local good = range:uint() == crc32(buffer:bytes(), at)
  tree:add(f.crc_good, range, good):set_generated()
  if not good then
    item:add_proto_expert_info(e.crc)
  end
end

function idq3p.dissector(buffer, pinfo, root)
  local length = buffer:reported_length_remaining()
  pinfo.cols.protocol = "IDQ3P"
  local tree = root:add(idq3p, buffer())
  if length ~= buffer:len() or (length ~= REQUEST_LEN and length ~= RESPONSE_LEN) then
    tree:add_proto_expert_info(e.length)
    return buffer:len()
  end
  local is_response = length == RESPONSE_LEN
  tree:add(f.kind, buffer(0, 1))
  local high, low = word(buffer(1, 4)), word(buffer(5, 4))
  local is_new = not is_response and high == 0 and low == 0
  local id = UInt64.new(low, high)
  tree:add(f.key_id, buffer(1, 8), id)
  if is_new then
    tree:add(f.new_key, buffer(1, 8), true):set_generated()
  end
  local key_length = buffer(9, 1):uint()
  tree:add(f.key_length, buffer(9, 1))
  local request_id = word(buffer(10, 4))
  tree:add(f.request_id, buffer(10, 4), request_id)

  if is_response then
    local status = buffer(14, 1):uint()
    local item = tree:add(f.status, buffer(14, 1))
    if status == 0 and key_length >= 1 and key_length <= KEY_FIELD then
      tree:add(f.key, buffer(KEY_OFFSET, key_length))
      if key_length < KEY_FIELD then
        tree:add(f.padding, buffer(KEY_OFFSET + key_length, KEY_FIELD - key_length))
      end
      pinfo.cols.info = string.format("Response %u: key %s, %u octets", request_id, "0x" .. id:tohex(), key_length)
    else
      item:add_proto_expert_info(e.refused)
      tree:add(f.padding, buffer(KEY_OFFSET, KEY_FIELD))
      pinfo.cols.info = string.format("Response %u: %s", request_id, statuses[status] or "unknown status " .. status)
    end
    tree:add(f.device, buffer(47, 1))
    tree:add(f.reserved, buffer(48, 10))
  else
    tree:add(f.device, buffer(14, 1))
    tree:add(f.reserved, buffer(15, 10))
    local what = is_new and "a new key" or "key 0x" .. id:tohex()
    pinfo.cols.info = string.format("Request %u: %s of %u octets", request_id, what, key_length)
  end
  add_crc(tree, buffer, length)
  link_frames(pinfo, tree, is_response, request_id)
  return length
end

local bound = nil

local function bind()
  local port = idq3p.prefs.port
  if port ~= bound then
    local udp = DissectorTable.get("udp.port")
    if bound then
      udp:remove(bound, idq3p)
    end
    udp:add(port, idq3p)
    bound = port
  end
end

idq3p.prefs_changed = bind
bind()
