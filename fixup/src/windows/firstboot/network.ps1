
# Cards that are connected. Drivers of the new machine may take their time.
function Find-Card {
    Get-WmiObject Win32_NetworkAdapter | Where-Object {
        $_.PhysicalAdapter -and $_.NetConnectionStatus -eq 2
    }
}

# 0 is done, 1 is done after a restart.
function Say([string]$what, $result) {
    if ($result.ReturnValue -gt 1) {
        Tell "${what}: refused with $($result.ReturnValue)"
    } else {
        Tell "${what}: done"
    }
}

$cards = @()
for ($try = 0; $try -lt 120 -and $cards.Count -eq 0; $try++) {
    Start-Sleep -Seconds 5
    $cards = @(Find-Card)
}
# A second card would be there soon too.
Start-Sleep -Seconds 20
$cards = @(Find-Card)
if ($cards.Count -ne 1) {
    Tell "$($cards.Count) cards are connected, and not one: set by hand what this script holds"
    exit 1
}
$index = $cards[0].Index
Tell "the new card is $($cards[0].NetConnectionID), $($cards[0].Name)"
$card = Get-WmiObject Win32_NetworkAdapterConfiguration -Filter "Index = $index"
if ($addresses.Count -gt 0) {
    Say "address $addresses mask $masks" ($card.EnableStatic([string[]]$addresses, [string[]]$masks))
}
if ($gateways.Count -gt 0) {
    if ($metrics.Count -gt 0) {
        Say "gateway $gateways" ($card.SetGateways([string[]]$gateways, [uint16[]]$metrics))
    } else {
        Say "gateway $gateways" ($card.SetGateways([string[]]$gateways))
    }
}
if ($servers.Count -gt 0) {
    Say "DNS servers $servers" ($card.SetDNSServerSearchOrder([string[]]$servers))
}
if ($suffix -ne '') {
    Say "DNS suffix $suffix" ($card.SetDNSDomain($suffix))
}
if ($wins.Count -gt 0) {
    Say "WINS servers $wins" ($card.SetWINSServer($wins[0], [string]$wins[1]))
}
if ($netbios -ne 0) {
    Say "NetBIOS $netbios" ($card.SetTcpipNetbios([uint32]$netbios))
}

# A network that Windows has not seen is public, and closes the firewall. The old one was not.
if ($private) {
    Start-Sleep -Seconds 30
    $manager = [Activator]::CreateInstance([Type]::GetTypeFromCLSID([Guid]'DCB00C01-570F-4A9B-8D69-199FDBA5723B'))
    foreach ($connection in $manager.GetNetworkConnections()) {
        $network = $connection.GetNetwork()
        if ($network.GetCategory() -eq 0) {
            $network.SetCategory(1)
            Tell "network $($network.GetName()): private"
        }
    }
}
Tell 'ended'
